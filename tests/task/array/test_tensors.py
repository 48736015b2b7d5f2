"""Volumes, video, points, waveforms: axes by letters, units, and what is refused."""

from typing import Any

import pytest
import torch
from tests.task.array.series_nets import Cnn, seeded
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.a(x).relu()).relu().mean((2, 3, 4)))


class Points(nn.Module):
    """A PointNet: every point by itself, then the largest of all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.a(x).relu()).amax(1))


class Graph(nn.Module):
    """Nodes that read their neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        return self.out((edges @ self.a(nodes)).tanh().mean(1))


class Moved(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.movedim(2, 1))


def rows(*shape: int, seed: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def explained(task: abe.Task, raw: Any, method: str = "gradient_x_input", **how: Any) -> abe.Explanation:
    return abe.explain(task, raw, method, progress=False, **how)


KINDS: dict[str, tuple[Any, str, tuple[int, ...], str, int, str]] = {
    "volumes": (Volume, "bcdhw", (2, 1, 4, 6, 6), "block", 27, "d 0–1 h 0–1 w 0–1"),
    "volumes without channels": (
        lambda: nn.Sequential(nn.Unflatten(0, (-1, 1)), Volume()),
        "bdhw",
        (2, 4, 6, 6),
        "block",
        27,
        "d 0–1 h 0–1 w 0–1",
    ),
    "video": (Volume, "bcthw", (2, 1, 4, 6, 6), "frame", 4, "frame 0"),
    "video, time first": (lambda: Moved(Volume()), "btchw", (2, 4, 1, 6, 6), "frame", 4, "frame 0"),
    "points": (Points, "bnc", (2, 12, 3), "point", 12, "point 0"),
    "waveforms": (Cnn, "bct", (2, 3, 48), "window_channel", 36, "ch0 0–4 s"),
    "planes": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.LazyLinear(2)),
        "bcft",
        (2, 2, 8, 8),
        "block",
        16,
        "f 0–1 0–2 s",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_have_units_of_their_own(name: str) -> None:
    make, axes, shape, unit, count, first = KINDS[name]
    if name == "planes":
        model = make()
        model(rows(*shape))
        model = model.eval()
    else:
        model = seeded(make)
    task = abe.tensor_task(model, axes, rate=1 if "t" in axes else None)
    x = rows(*shape)
    found = explained(task, x)
    assert found.unit == unit
    assert len(found.unit_names[0]) == count
    assert found.unit_names[0][0] == first
    channels = axes.index("c") if "c" in axes else None
    laid = x[:, None] if channels is None else x.movedim(channels, 1)
    assert torch.equal(found.x, laid)
    total = sum(share for _, share in found.by_unit()[0])
    assert total == pytest.approx(float(found.attribution[0].double().sum()), abs=1e-5)
    lost = explained(task, x, "occlusion")
    assert lost.diagnostics["evaluations"].tolist() == [count, count]


def test_volumes_without_channels_are_what_those_with_one_are() -> None:
    model, x = seeded(Volume), rows(2, 1, 4, 6, 6)

    class Bare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x[:, None])

    one = explained(abe.tensor_task(model, "bcdhw"), x, "ig")
    two = explained(abe.tensor_task(Bare(), "bdhw"), x[:, 0], "ig")
    assert torch.allclose(one.attribution, two.attribution, atol=1e-6)


def test_both_orders_of_video_give_the_same_numbers() -> None:
    model, x = seeded(Volume).double(), rows(2, 1, 4, 6, 6, dtype=torch.float64)
    for method in ("ig", "deeplift", "shapley", "smoothgrad"):
        how = {"units": "frame"} if method == "shapley" else {}
        one = explained(abe.tensor_task(model, "bcthw"), x, method, **how)
        two = explained(abe.tensor_task(Moved(model), "btchw"), x.movedim(2, 1), method, **how)
        assert float((one.attribution - two.attribution).abs().max()) < 1e-10


@pytest.mark.parametrize(
    ("units", "count"),
    [
        ("frame", 4),
        ("tube", 16),
        (("tube", {"n": 2}), 4),
        ("block", 27),
        (("block", {"n": 2}), 8),
        ("channel", 1),
        ("natural", 4),
    ],
)
def test_units_of_video(units: Any, count: int) -> None:
    found = explained(abe.tensor_task(seeded(Volume), "bcthw"), rows(1, 1, 4, 6, 6), "occlusion", units=units)
    assert found.diagnostics["evaluations"].tolist() == [count]


def test_clouds_of_different_sizes_are_each_as_if_alone() -> None:
    task = abe.tensor_task(seeded(Points).double(), "bnc")
    one, two = rows(12, 3, dtype=torch.float64), rows(5, 3, seed=4, dtype=torch.float64)
    for method in ("ig", "shapley", "deeplift"):
        both, alone = explained(task, [one, two], method), explained(task, two, method)
        assert float((both.attribution[1, :, :5] - alone.attribution[0]).abs().max()) < 1e-9
        assert len(both.by_unit()[1]) == 5


def test_a_point_that_is_nowhere_the_largest_has_no_share() -> None:
    model = seeded(Points).double()
    x = rows(1, 12, 3, dtype=torch.float64)
    winners = set(model.b(model.a(x).relu()).argmax(1).flatten().tolist())  # type: ignore[operator]
    found = explained(abe.tensor_task(model, "bnc"), x, "gradient")
    shares = found.attribution.abs().sum(1)[0]
    assert {i for i, share in enumerate(shares.tolist()) if share > 0} <= winners


def test_edges_of_a_graph_go_with_its_nodes() -> None:
    task = abe.tensor_task(seeded(Graph), "bnc", explained="nodes")
    edges = torch.eye(5)[None].repeat(2, 1, 1)
    edges[1] = 0.2
    raw = {"nodes": rows(2, 5, 3), "edges": edges}
    both = explained(task, raw, "ig")
    second = explained(task, {k: v[1:] for k, v in raw.items()}, "ig")
    assert torch.allclose(both.attribution[1], second.attribution[0], atol=1e-6)
    with pytest.raises(AbeError, match="not clear which input"):
        explained(abe.tensor_task(seeded(Graph), "bnc"), raw)


@pytest.mark.parametrize("axes", ["bc", "b", "bcc", "cdhw", "bxyz", "hwb", "", "b c t"])
def test_letters_that_are_no_axes_are_refused(axes: str) -> None:
    with pytest.raises(AbeError) as caught:
        abe.tensor_task(seeded(Volume), axes)
    assert caught.value.code == Code.BAD_PARAMETER


BAD: dict[str, tuple[Any, Code]] = {
    "an image": (rows(1, 6, 6), Code.SHAPE),
    "six axes": (rows(1, 1, 1, 4, 6, 6), Code.SHAPE),
    "two sizes": ([rows(1, 4, 6, 6), rows(1, 4, 5, 6)], Code.SHAPE),
    "other depths": ([rows(1, 4, 6, 6), rows(1, 3, 6, 6)], Code.SHAPE),
    "nothing": (rows(0, 1, 4, 6, 6), Code.EMPTY_BATCH),
    "no depth": (rows(1, 1, 0, 6, 6), Code.EMPTY_BATCH),
    "a gap": (torch.full((1, 1, 4, 6, 6), torch.nan), Code.NOT_FINITE_INPUT),
    "outside": (torch.full((1, 1, 4, 6, 6), 3.0), Code.OUT_OF_BOUNDS),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_volumes_are_refused(name: str) -> None:
    raw, code = BAD[name]
    with pytest.raises(AbeError) as caught:
        explained(abe.tensor_task(seeded(Volume), "bcdhw", bounds=(-2.5, 2.5)), raw)
    assert caught.value.code == code, caught.value


def test_one_sample_needs_no_axis_of_samples() -> None:
    task = abe.tensor_task(seeded(Volume), "bcdhw")
    one = rows(1, 4, 6, 6)
    assert torch.equal(explained(task, one).attribution, explained(task, one[None]).attribution)
