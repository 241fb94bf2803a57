"""The commands of ``python -m results``: one module per command, named after it."""
