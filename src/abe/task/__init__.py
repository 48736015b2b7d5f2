"""Data and models: what a task is, per modality, and ready examples."""

from abe.task.base import Context, Lifted, Task
from abe.task.image import image_task, load_image

__all__ = ["Context", "Lifted", "Task", "image_task", "load_image"]
