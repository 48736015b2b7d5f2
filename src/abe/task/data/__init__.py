"""Samples from where they lie, batch by batch."""

from abe.task.data.loaders import samples

__all__ = ["samples"]
