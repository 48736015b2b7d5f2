"""Time series
===========

Which stretch of which channel decides: a small recurrent network that was taught to see a bump.
"""

# %%
# The series are made here, and the network is trained in seconds: class 1 has a bump in "flow", of the
# other channels one is a slow wave and one is noise.

from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import nn

import abe

CHANNELS = ["level", "flow", "noise"]
STEPS = 48


def made(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, steps, channels) series and their classes."""
    random = torch.Generator().manual_seed(seed)
    time = torch.arange(STEPS)
    phase = 6.3 * torch.rand((n, 1), generator=random)
    x = 0.3 * torch.randn((n, STEPS, 3), generator=random)
    x[:, :, 0] += torch.sin(time / 8 + phase)
    has = torch.rand(n, generator=random) < 0.5
    place = torch.randint(6, STEPS - 6, (n, 1), generator=random)
    x[:, :, 1] += 2 * has[:, None] * torch.exp(-(((time - place) / 2) ** 2))
    return x, has.long()


class Network(nn.Module):
    """A recurrent network whose steps are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0].amax(1))


torch.manual_seed(0)  # noqa: TID251 -- the weights that training begins from
model = Network()
x, y = made(512, 0)
optimiser = torch.optim.Adam(model.parameters(), 0.01)
for _ in range(120):
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimiser.step()
model.eval()

# %%
# One call says how the axes lie; the channels get names.

task = abe.series_task(model, "btc", channels=CHANNELS, labels=["flat", "bump"], window=4)
test, classes = made(40, 1)
series = test[classes == 1][:1]

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "Integrated Gradients": ("ig", {}),
    "Shapley, windows of all channels": ("shapley", {"units": "window"}),
    "Occlusion, interpolated": ("occlusion", {"removal": "interpolate"}),
}
found = {title: abe.explain(task, series, name, **how) for title, (name, how) in METHODS.items()}

# %%
# The shares of windows, by name: the bump is found, and what each method gives to the rest can be read.

for title, explanation in found.items():
    top = sorted(explanation.by_unit()[0], key=lambda one: -abs(one[1]))[:3]
    print(title, [(name, round(share, 2)) for name, share in top])

# %%
# Lines are the series; behind each lies its map, orange for the class and blue against it.

figure, axes = plt.subplots(3, len(found), figsize=(9, 4), layout="constrained", sharex=True)
for column, (title, explanation) in enumerate(found.items()):
    maps, values = explanation.attribution[0], explanation.x[0]
    most = float(maps.abs().max())
    axes[0, column].set_title(title, fontsize=9)
    for row, name in enumerate(CHANNELS):
        axis = axes[row, column]
        ends = (-0.5, STEPS - 0.5, float(values.min()), float(values.max()))
        axis.imshow(maps[row][None], cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto", extent=ends)
        axis.plot(values[row], color="black", linewidth=0.9)
        if not column:
            axis.set_ylabel(name)
plt.show()
