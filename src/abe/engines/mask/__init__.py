"""Masks and bottlenecks found by optimisation."""
