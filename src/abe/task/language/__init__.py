"""Language models: every generated token explained by the prompt and the tokens before it."""

from abe.task.language.lifter import language_task

__all__ = ["language_task"]
