"""What finished runs have learned: looks at their encoders, never changes a run."""
