"""Detections: boxes that a model finds, each explained by how well some candidate still matches it."""

from abe.task.detection.boxes import Detection, Detections
from abe.task.detection.task import DetectionTask, detection_task

__all__ = ["Detection", "DetectionTask", "Detections", "detection_task"]
