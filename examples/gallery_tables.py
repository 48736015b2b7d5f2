"""Tables
======

What each column of a row does for a network's answer: a small network on invented flats, whose rents follow a
known rule, with a category as an embedding.
"""

# %%
# Rents rise with the area, less and less; they depend on the district; and a lift is worth the more, the
# higher the flat lies.

import matplotlib.pyplot as plt
import torch
from torch import nn

import abe
from abe.report.colour import OPPOSES, SUPPORTS

generator = torch.Generator().manual_seed(0)
DISTRICTS = ["harbour", "old town", "hill"]
area = 30 + 90 * torch.rand(400, generator=generator)
floor, lift, district = (torch.randint(0, n, (400,), generator=generator) for n in (6, 2, 3))
rent = 12 * area.sqrt() + torch.tensor([0.0, 25.0, 60.0])[district] + 8 * floor * (lift - 0.5)


class Rents(nn.Module):
    """The district's code, and three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.district = nn.Embedding(len(DISTRICTS), 3)
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        scaled = numbers / torch.tensor([100.0, 5.0, 1.0])
        return 100 + 60 * self.layers(torch.cat([self.district(codes[:, 0]), scaled], 1))


model = Rents()
with torch.no_grad():
    for weights in model.parameters():
        weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
numbers = torch.stack([area, floor, lift], 1)
optimiser = torch.optim.Adam(model.parameters(), 0.01)
for _ in range(600):
    loss = (model(district[:, None], numbers)[:, 0] - rent).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
model.eval()

# %%
# The background names the columns and says what an absent one is; a hundred of its rows stand in.

rows = {
    "district": [DISTRICTS[code] for code in district.tolist()],
    "area": area.tolist(),
    "floor": floor.tolist(),
    "lift": lift.tolist(),
}
task = abe.table_task(
    model,
    background=rows,
    categories={"district": DISTRICTS},
    output_kind="regression",
    labels=["rent"],
)
flats = [
    {"district": "hill", "area": 80, "floor": 5, "lift": 1},
    {"district": "harbour", "area": 80, "floor": 5, "lift": 0},
]

# %%
# Shapley values share the difference to the mean rent of the background exactly; Integrated Gradients that to
# a typical flat; the gradient shares nothing and says where the rent would rise.

METHODS = {"Shapley values": "shapley", "Integrated Gradients": "ig", "Gradient × input": "gradient_x_input"}
found = {title: abe.explain(task, flats, name, target=0, progress=False) for title, name in METHODS.items()}

# %%
# Orange raises the rent, blue lowers it.

size = {"figsize": (9, 4.2), "layout": "constrained"}
figure, axes = plt.subplots(len(flats), len(found), sharex="col", sharey="row", **size)
for column, (title, exp) in zip(axes.T, found.items(), strict=True):
    column[0].set_title(title, fontsize=10)
    for axis, shares, flat in zip(column, exp.by_unit(), exp.shown, strict=True):
        values = [value for _, value in shares]
        hues = [[level / 255 for level in (SUPPORTS if value > 0 else OPPOSES)] for value in values]
        axis.barh(range(len(values)), values, color=hues)
        axis.set_yticks(range(len(values)), [f"{name}: {flat[name]}" for name, _ in shares])
        axis.axvline(0, color="0.6", linewidth=0.8)
for axis in axes[:, 0]:
    axis.invert_yaxis()
plt.show()
