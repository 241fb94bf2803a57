"""Measurements of an encoder on a dataset, one file each."""
