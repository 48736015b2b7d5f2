"""Seeing a model run: every operation, its layers, its state."""
