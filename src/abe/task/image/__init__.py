"""Pictures: photographs, arrays and tensors; a model's classes, or its classes at every place."""

from abe.task.image.lifter import ImageLifter, image_task
from abe.task.image.pictures import load_image
from abe.task.image.segmentation import segmentation_task

__all__ = ["ImageLifter", "image_task", "load_image", "segmentation_task"]
