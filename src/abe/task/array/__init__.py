"""Arrays whose axes have letters: series, volumes, video, points and nodes, waveforms."""

from abe.task.array.series import series_task
from abe.task.array.tensor import tensor_task

__all__ = ["series_task", "tensor_task"]
