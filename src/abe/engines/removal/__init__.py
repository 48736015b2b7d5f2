"""Removing units: segments, what stands in their place, the game and its summaries."""
