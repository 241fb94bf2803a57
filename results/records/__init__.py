"""Reading of records: the long table with one row per run and metric, its labels and its cells."""
