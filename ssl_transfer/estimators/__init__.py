"""What is fitted on features in closed form or to a tolerance, without a training loop."""
