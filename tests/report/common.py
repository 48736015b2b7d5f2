"""A small comparison that never changes: a tiny network on two photographs with hostile names."""

import torch

from abe.metrics import Comparison, compare
from abe.task import zoo
from abe.task.base import Task
from abe.task.image import image_task

NAMES = ['<script>alert("photo")</script>.png', "cost $5_x$ & more.png"]
LABELS = ["<script>alert('label')</script>", "a $b_c$ <b>", "dog"]


def tiny() -> Task:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
    )
    return image_task(model, size=32, labels=LABELS)


def hostile() -> Comparison:
    photos = list(zoo.photographs(["chelsea", "coffee"]).values())
    methods = ["gradient", ("integrated_gradients", {"steps": 4}), "fast_ig"]
    metrics = ["insertion", "deletion", "kl_insertion", "residual", "passes"]
    made = compare(tiny(), photos, methods, metrics, target=[0, 1], step=0.25, progress=False)
    made.names = NAMES
    return made
