"""Volumes, points and several inputs
===================================

Arrays with named axes, and an image with numbers beside it.
"""

# %%
# A cloud of points: the network keeps the largest number of all points, so few points decide.

import matplotlib.pyplot as plt
import torch
from torch import nn

import abe

torch.manual_seed(0)  # noqa: TID251 -- the weights that training begins from


class Cloud(nn.Module):
    """A PointNet of two classes: flat clouds, and clouds with a spike."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.out = nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.point(x).amax(1))


def clouds(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, points, 3) clouds and whether they have a spike."""
    x = torch.randn(n, 64, 3) * torch.tensor([1.0, 1.0, 0.1])
    spiked = torch.rand(n) < 0.5
    x[spiked, :6] = x[spiked, :6] * 0.1 + torch.linspace(0.3, 2, 6)[:, None] * torch.tensor([0.0, 0.0, 1.0])
    return x, spiked.long()


def trained(model: nn.Module, make: object, steps: int = 150) -> nn.Module:
    """The model after some steps on samples that are made anew."""
    optimiser = torch.optim.Adam(model.parameters(), 0.005)
    for _ in range(steps):
        *inputs, y = make(128)  # type: ignore[operator]
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(*inputs), y).backward()
        optimiser.step()
    return model.eval()


task = abe.tensor_task(trained(Cloud(), clouds), axes="bnc", labels=["flat", "spike"])
x, y = clouds(16)
cloud = x[y == 1][:1]
explanation = abe.explain(task, cloud, "occlusion")
share = explanation.attribution[0].sum(0)
top = sorted(explanation.by_unit()[0], key=lambda one: -one[1])[:4]
print([(name, round(value, 2)) for name, value in top])  # points 0 to 5 are the spike

# %%
# Points by their share; those without one keep their outline.

figure = plt.figure(figsize=(4, 3.6), layout="constrained")
axis = figure.add_subplot(projection="3d")
places, most = cloud[0].T.numpy(), float(share.max())
outlined = {"edgecolors": "#8c959f", "linewidths": 0.6, "depthshade": False, "s": 26}
axis.scatter(places[0], places[1], places[2], c=share, cmap="PuOr_r", vmin=-most, vmax=most, **outlined)
plt.show()

# %%
# An image and a number: the class is whether the bright square is on the side that the number says. Neither
# input tells anything alone: the Shapley value shares what they do together.


class Both(nn.Module):
    """Reads a picture and a side."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU())
        self.out = nn.Sequential(nn.Linear(17, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, image: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.see(image), side], 1))


def pairs(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures, sides, and whether they agree."""
    image, right, said = 0.1 * torch.rand(n, 1, 12, 12), torch.rand(n) < 0.5, torch.rand(n) < 0.5
    image[right, :, 4:8, 8:11], image[~right, :, 4:8, 1:4] = 0.9, 0.9
    return image, said.float()[:, None] * 2 - 1, (said == right).long()


task = abe.make_task(
    trained(Both(), pairs, 400),
    {"image": abe.image(channels=1), "side": abe.columns(["side"])},
    labels=["other side", "this side"],
)
image, side, agree = pairs(16)
chosen = agree == 1
given = {"image": image[chosen][:1], "side": side[chosen][:1]}
whole = abe.explain(task, given, "shapley", units="input")
print({name: round(float(whole.part(name).sum()), 2) for name in ("image", "side")})

# %%
# The image's own share, place by place.

maps = abe.explain(task, given, "ig").part("image")[0, 0]
figure, axes = plt.subplots(1, 2, figsize=(5, 2.6), layout="constrained")
axes[0].imshow(given["image"][0, 0], cmap="gray", vmin=0, vmax=1)
axes[1].imshow(maps, cmap="PuOr_r", vmin=-float(maps.abs().max()), vmax=float(maps.abs().max()))
for axis in axes:
    axis.set_axis_off()
plt.show()
