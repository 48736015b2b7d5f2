"""Explainers that are trained first."""
