"""Pairs of a photograph and a caption, for models with a tower for each."""

from abe.task.pair.lifter import pair_task

__all__ = ["pair_task"]
