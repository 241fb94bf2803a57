"""Estimators on features, fitted in closed form or to a tolerance, without the training loop."""
