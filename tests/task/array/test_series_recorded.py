"""Series against recorded numbers of published code and of plain formulas.

`recorded/series.npz` holds them, with the weights of the three networks: captum's gradients, paths, ablations
and occlusions, and exact Shapley values over windows for two removals. Inputs are stored once per network.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.task.array.series_nets import Cnn, Forecast, Lstm
from torch import Tensor, nn

import abe

FILE = Path(__file__).parent / "recorded" / "series.npz"
FLOAT64 = 1e-9
NETS: dict[str, type[nn.Module]] = {"lstm": Lstm, "cnn": Cnn, "forecast": Forecast}
WINDOWS = ("window", {"size": 4})
UNITS: dict[str, Any] = {
    "window": WINDOWS,
    "channel": "channel",
    "cell": ("window_channel", {"size": 4}),
}


@cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def given(net: str, name: str) -> Tensor:
    return torch.from_numpy(recorded()[f"{net}/{name}"])


@cache
def task_of(net: str) -> abe.Task:
    model = NETS[net]().double().eval()
    begin = f"net/{net}/"
    held = {k.removeprefix(begin): torch.from_numpy(v) for k, v in recorded().items() if k.startswith(begin)}
    model.load_state_dict(held)
    kind = "regression" if net == "forecast" else "logits"
    axes = "bct" if net == "cnn" else "btc"
    return abe.series_task(model, axes, window=4, output_kind=kind)


def explained(net: str, method: str, **how: Any) -> abe.Explanation:
    return abe.explain(
        task_of(net), given(net, "x"), method, target=given(net, "target"), progress=False, **how
    )


def laid(net: str, maps: Tensor) -> Tensor:
    """A map as the records have it: as the network has its axes."""
    return maps if net == "cnn" else maps.movedim(1, 2)


def close(found: Tensor, wanted: np.ndarray, bar: float = FLOAT64) -> None:
    other = torch.from_numpy(wanted).to(found)
    assert found.shape == other.shape
    assert float((found - other).abs().max() / other.abs().max()) < bar


@pytest.mark.parametrize("net", NETS)
def test_gradients(net: str) -> None:
    for name, method in (("out", "gradient"), ("out_times_input", "gradient_x_input")):
        close(laid(net, explained(net, method).attribution), recorded()[f"{net}_gradient/{name}"])


@pytest.mark.parametrize("reference", ["zero", "mean"])
@pytest.mark.parametrize("net", NETS)
def test_paths(net: str, reference: str) -> None:
    found = explained(net, "ig", baseline=reference, steps=50, quadrature="gauss_legendre")
    close(laid(net, found.attribution), recorded()[f"{net}_ig_{reference}/out_formula"])
    assert found.delta is not None
    close(found.delta, recorded()[f"{net}_ig_{reference}/delta"])


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("net", NETS)
def test_ablations(net: str, kind: str) -> None:
    whole = explained(net, "occlusion", units=UNITS[kind], removal="mean", variant="published")
    close(laid(net, whole.attribution), recorded()[f"{net}_ablation_{kind}/out"])
    shares = explained(net, "occlusion", units=UNITS[kind], removal="mean").attribution
    windows = shares.unflatten(2, (6, 4))
    sums = {
        "window": windows.sum((1, 3)),
        "channel": shares.sum(2),
        "cell": windows.sum(3).movedim(1, 2).flatten(1),
    }
    close(sums[kind], recorded()[f"{net}_ablation_{kind}/out_unit"])


@pytest.mark.parametrize("net", NETS)
def test_natural_units_are_counted_as_the_records_count_cells(net: str) -> None:
    found = explained(net, "occlusion", removal="mean")
    values = torch.tensor([[share for _, share in one] for one in found.by_unit()], dtype=torch.float64)
    close(values, recorded()[f"{net}_ablation_cell/out_unit"])


@pytest.mark.parametrize("net", NETS)
def test_sliding_windows(net: str) -> None:
    found = explained(net, "occlusion_patch", size=4, stride=2, removal="zero")
    close(laid(net, found.attribution), recorded()[f"{net}_occlusion_all/out_formula"])


@pytest.mark.parametrize("net", NETS)
def test_sliding_windows_of_one_channel(net: str) -> None:
    found = explained(net, "occlusion_patch", size=5, stride=3, per_channel=True, removal="zero")
    close(laid(net, found.attribution), recorded()[f"{net}_occlusion_one/out_formula"])


@pytest.mark.parametrize("removal", ["mean", "interpolate"])
@pytest.mark.parametrize("net", NETS)
def test_games(net: str, removal: str) -> None:
    found = explained(net, "shapley", units=WINDOWS, removal=removal).attribution
    close(found.unflatten(2, (6, 4)).sum((1, 3)), recorded()[f"{net}_shapley_{removal}/out"])
