"""Texts: strings, pairs, ids and encodings, for models with an embedding."""

from abe.task.text.lifter import text_task

__all__ = ["text_task"]
