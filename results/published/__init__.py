"""Published tables as CSV files, in the format of records."""
