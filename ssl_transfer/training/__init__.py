"""The training loop, with its options, optimizers, checkpoints and grouped batch norm."""
