"""A small comparison that never changes: a tiny network on two photographs with hostile names."""

from collections.abc import Sequence

import torch

from abe.metrics import Comparison, compare
from abe.task import zoo
from abe.task.base import Task
from abe.task.image.lifter import image_task

NAMES = ['<script>alert("photo")</script>.png', "cost $5_x$ & more.png"]
LABELS = ["<script>alert('label')</script>", "a $b_c$ <b>", "dog"]


def tiny(labels: Sequence[str] = LABELS) -> Task:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
    )
    return image_task(model, size=32, labels=list(labels))


def hostile() -> Comparison:
    photos = list(zoo.photographs(["chelsea", "coffee"]).values())
    methods = ["gradient", ("integrated_gradients", {"steps": 4}), "fast_ig"]
    metrics = ["insertion", "deletion", "kl_insertion", "residual", "passes"]
    made = compare(tiny(), photos, methods, metrics, target=[0, 1], step=0.25, progress=False)
    made.names = NAMES
    return made


def large() -> Comparison:
    """As large as the demo's: four photographs, twelve methods, every default metric, long names."""
    photos = list(zoo.photographs().values())
    methods = [
        *("gradient", "gradient_x_input", "fast_ig", "occlusion_patch"),
        *(("integrated_gradients", {"steps": n, "quadrature": "midpoint"}) for n in (2, 3, 4)),
        *(("smoothgrad", {"samples": 2, "sigma": s}) for s in (0.1, 0.123456789)),
        *(("expected_gradients", {"samples": 2}), ("blur_ig", {"steps": 2}), ("guided_ig", {"steps": 2})),
    ]
    made = compare(
        tiny(("missile", "a-word-that-has-no-place-to-break-and-goes-on-and-on", "missile")),
        photos,
        methods,
        step=0.25,
        progress=False,
    )
    assert len(made) == 12
    made.names = [f"{name * 5}.png" for name in made.names]
    return made
