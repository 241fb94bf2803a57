"""Tables of texts and numbers, and their rendering."""
