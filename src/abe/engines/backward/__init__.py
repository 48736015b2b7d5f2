"""Backward rules: what flows back through every operation of a model."""
