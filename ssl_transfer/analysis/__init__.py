"""Analysis of the encoders of finished runs; it never changes a run."""
