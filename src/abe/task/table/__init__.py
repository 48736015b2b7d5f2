"""Rows of numbers and categories, for modules, estimators and functions of rows."""

from abe.task.table.lifter import table_task

__all__ = ["table_task"]
