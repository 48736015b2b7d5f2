"""Attention maps of transformers: captured, aggregated, brought to the input."""
