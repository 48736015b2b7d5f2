"""Series: axes, units, lengths, references, removals, forecasts, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.task.array.series_nets import Active, Cnn, Forecast, Lstm, Turned, seeded
from torch import Tensor, nn

import abe
from abe.engines.removal.interpolate import Interpolate
from abe.engines.removal.removals import Absent
from abe.engines.removal.segments import segments_of
from abe.engines.runtime.request import open_request
from abe.errors import AbeError, Code
from abe.registry import methods
from abe.task.array.tensor import ArrayLifter
from abe.task.letters import Axes
from abe.units import Pixel

PAIRS = [(Lstm, "btc", "bct"), (Cnn, "bct", "btc")]
"""A network, how it takes series, and how its turned twin does."""


def rows(*shape: int, seed: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def explained(task: abe.Task, raw: Any, method: str = "ig", **how: Any) -> abe.Explanation:
    return abe.explain(task, raw, method, progress=False, **how)


def same(one: Tensor, other: Tensor, bar: float = 1e-12) -> None:
    assert one.shape == other.shape
    assert float((one - other).abs().max()) <= bar * max(1.0, float(other.abs().max()))


# --- axes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ig", "lrp_epsilon", "deeplift", "shapley", "occlusion", "smoothgrad"])
@pytest.mark.parametrize(("make", "own", "other"), PAIRS)
def test_both_orders_of_axes_give_the_same_numbers(make: Any, own: str, other: str, method: str) -> None:
    model, x = seeded(make).double(), rows(2, 24, 3, dtype=torch.float64)
    lies = {"btc": x, "bct": x.movedim(1, 2).contiguous()}
    one = explained(abe.series_task(model, own), lies[own], method)
    two = explained(abe.series_task(Turned(model), other), lies[other], method)
    same(one.attribution, two.attribution, 1e-10)
    assert one.x.shape == (2, 3, 24)
    assert one.unit_names == two.unit_names


def test_as_many_steps_as_channels_are_no_question() -> None:
    x = rows(1, 3, 3)
    found = explained(abe.series_task(seeded(Lstm), "btc"), x, "gradient_x_input")
    same(found.x, x.movedim(1, 2))


def test_a_model_may_read_its_input_by_view() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x.view(len(x), -1))

    model, x = seeded(Flat), rows(2, 6, 2)
    found = explained(abe.series_task(model, "btc"), x, "gradient")
    wanted = model.out.weight[model(x).argmax(1)].view(2, 6, 2)  # type: ignore[union-attr]
    same(found.attribution, wanted.detach().movedim(1, 2), 1e-6)


def test_series_without_channels() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2)))
    task = abe.series_task(model, "bt")
    for raw in (rows(1, 8), rows(8), rows(8).numpy(), rows(8).tolist(), [rows(8)]):
        found = explained(task, raw)
        assert found.shape == (1, 1, 8)
        assert found.unit == "window"


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ("btcx", "no letter 'x'"),
        ("btt", "time steps twice"),
        ("tc", "samples"),
        ("bc", "time steps"),
        ("tbc", "first axis"),
        ("BTC", "no letter 'B'"),
        ("bcthw", "no letter 'h'"),
        ("", "one letter"),
    ],
)
def test_axes_that_are_none_are_refused_by_name(axes: Any, said: str) -> None:
    with pytest.raises(AbeError, match=said) as caught:
        abe.series_task(seeded(Lstm), axes)
    assert caught.value.code == Code.BAD_PARAMETER


BAD: dict[str, tuple[Any, Code]] = {
    "four axes": (rows(1, 2, 24, 3), Code.SHAPE),
    "one axis": (rows(24), Code.SHAPE),
    "no samples": (rows(0, 24, 3), Code.EMPTY_BATCH),
    "no steps": (rows(1, 0, 3), Code.EMPTY_BATCH),
    "an empty list": ([], Code.EMPTY_BATCH),
    "complex": (torch.zeros(1, 24, 3, dtype=torch.complex64), Code.DTYPE),
    "complex array": (np.zeros((1, 24, 3), dtype=complex), Code.DTYPE),
    "a gap": (torch.full((1, 24, 3), torch.nan), Code.NOT_FINITE_INPUT),
    "infinite": (torch.full((1, 24, 3), torch.inf), Code.NOT_FINITE_INPUT),
    "double": (rows(1, 24, 3).double(), Code.DTYPE),
    "words": (np.array([["a", "b", "c"]]), Code.DTYPE),
    "a string": ("series.csv", Code.SHAPE),
    "a number": (3, Code.SHAPE),
    "none": (None, Code.SHAPE),
    "other channels": ([rows(24, 3), rows(24, 2)], Code.SHAPE),
    "inputs and labels": ([(rows(2, 24, 3), torch.tensor([0, 1]))], Code.SHAPE),
    "two types": ([rows(24, 3), rows(24, 3).double()], Code.DTYPE),
    "a dict of two": ({"a": rows(1, 24, 3), "b": rows(1, 24, 3)}, Code.SHAPE),
    "channels elsewhere": (rows(1, 3, 24), Code.MODEL_FAILED),
    "objects": ([object()], Code.DTYPE),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_series_are_refused(name: str) -> None:
    raw, code = BAD[name]
    with pytest.raises(AbeError) as caught:
        explained(abe.series_task(seeded(Lstm), "btc"), raw)
    assert caught.value.code == code, caught.value


@pytest.mark.parametrize(
    "how",
    [
        {"channels": ["a"]},
        {"rate": 0},
        {"window": 0},
        {"bounds": (1, 0)},
        {"std": 0},
        {"mean": [1.0, 2.0]},
        {"background": rows(4, 23, 2)},
        {"background": torch.full((2, 24, 3), torch.nan)},
        {"background": [rows(24, 3), rows(20, 3)]},
        {"explained": "x"},
    ],
)
def test_unusable_settings_are_refused(how: dict[str, Any]) -> None:
    raw: Any = {"y": rows(1, 24, 3)} if "explained" in how else rows(1, 24, 3)
    with pytest.raises(AbeError):
        explained(abe.series_task(seeded(Lstm), "btc", **how), raw)


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool])
def test_integers_are_numbers(kind: torch.dtype) -> None:
    x = (rows(2, 24, 3) > 0).to(kind)
    task = abe.series_task(seeded(Lstm), "btc")
    same(explained(task, x).attribution, explained(task, x.float()).attribution)


def test_one_step_and_one_channel() -> None:
    found = explained(abe.series_task(seeded(Lstm), "btc"), rows(1, 1, 3), baseline="zero")
    assert [name for name, _ in found.by_unit()[0]] == ["ch0 t 0", "ch1 t 0", "ch2 t 0"]


# --- tables -------------------------------------------------------------------------------------------


class RangeIndex:
    """Steps without names, in pandas' words."""


class Frame:
    """As much of a table as is read: columns, an index, numbers, in pandas' words."""

    def __init__(self, values: np.ndarray, columns: list[str], index: list[str] | None = None) -> None:
        self.values, self.columns = values, columns
        self.index: Any = index or RangeIndex()
        self.iloc = None

    def to_numpy(self) -> np.ndarray:
        return self.values

    def __len__(self) -> int:
        return len(self.values)


def test_tables_name_channels_and_steps() -> None:
    days = [f"day {i}" for i in range(24)]
    values = rows(24, 3).numpy()
    found = explained(
        abe.series_task(seeded(Lstm), "btc", window=8), Frame(values, ["heat", "rain", "wind"], days)
    )
    assert [name for name, _ in found.by_unit()[0]][:4] == [
        "heat day 0–day 7",
        "rain day 0–day 7",
        "wind day 0–day 7",
        "heat day 8–day 15",
    ]
    same(found.x[0], torch.from_numpy(values).T)


def test_tables_of_different_lengths() -> None:
    days = [f"day {i}" for i in range(24)]
    values, names = rows(24, 3).numpy(), ["heat", "rain", "wind"]
    task = abe.series_task(seeded(Lstm), "btc", window=8)
    both = explained(task, [Frame(values, names, days), Frame(values[:10], names, days[:10])])
    assert [name for name, _ in both.by_unit()[1]][-3:] == [f"{name} day 8–day 9" for name in names]


def test_columns_are_put_in_the_order_of_the_channels() -> None:
    values = rows(24, 3).numpy()
    task = abe.series_task(seeded(Lstm), "btc", channels=["a", "b", "c"])
    found = explained(task, [Frame(values[:, [2, 0, 1]], ["c", "a", "b"])])
    same(found.x[0], torch.from_numpy(values).T)
    with pytest.raises(AbeError, match="other columns"):
        explained(task, Frame(values, ["a", "b", "d"]))


# --- units --------------------------------------------------------------------------------------------


def test_windows_are_called_by_their_time() -> None:
    task = abe.series_task(seeded(Lstm), "btc", rate=4, window=12, channels=["a", "b", "c"])
    found = explained(task, rows(1, 24, 3), "gradient")
    assert [name for name, _ in found.by_unit()[0]][:4] == ["a 0–3 s", "b 0–3 s", "c 0–3 s", "a 3–6 s"]


@pytest.mark.parametrize(
    ("units", "count"),
    [
        ("natural", 36),
        ("window_channel", 36),
        ("window", 12),
        ("channel", 3),
        (("window", {"size": 5}), 5),
        (("window_channel", {"size": 24}), 3),
        ("pixel", 24),
        ("element", 72),
    ],
)
def test_units_are_removed_together(units: Any, count: int) -> None:
    task = abe.series_task(seeded(Lstm).double(), "btc")
    found = explained(task, rows(1, 24, 3, dtype=torch.float64), "occlusion", units=units)
    assert found.diagnostics["evaluations"].tolist() == [count]


@pytest.mark.parametrize("units", ["word", "frame", "block", "point", "column", ("tube", {"n": 2})])
def test_units_of_other_inputs_are_refused(units: Any) -> None:
    with pytest.raises(AbeError, match="no units called") as caught:
        explained(abe.series_task(seeded(Lstm), "btc"), rows(1, 24, 3), "occlusion", units=units)
    assert caught.value.code == Code.UNITS


@settings(max_examples=30, deadline=None)
@given(t=st.integers(1, 40), c=st.integers(1, 4), size=st.integers(1, 50))
def test_windows_tile_a_series(t: int, c: int, size: int) -> None:
    lifter = ArrayLifter(Axes.read("bct"))
    labels = lifter.labels("window_channel", (c, t), None, size)
    assert labels.shape == (1, c, t)
    numbers = torch.bincount(labels.flatten())
    assert len(numbers) == c * -(-t // size)
    assert int(numbers.min()) >= 1
    assert int(numbers.max()) <= size


# --- known answers ------------------------------------------------------------------------------------

DUMMY = [e.name for e in methods.entries() if not e.required() and "dummy" in e.card.guarantees]
NOT = {"expected_gradients": "bounds", "deepshap": "bounds", "occlusion_patch": "windows of all channels"}
"""Methods that ask for what the task has not, or share out what they find over channels."""


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in DUMMY if name not in NOT])
def test_what_the_score_does_not_read_has_no_share(method: str) -> None:
    x = rows(2, 24, 3).abs() + 0.1
    known = methods.get(method).parameters()
    how = {k: v for k, v in {"steps": 5, "samples": 5}.items() if k in known}
    shares = explained(
        abe.series_task(Active(), "btc", window=4), x, method, target=0, **how
    ).attribution.abs()
    inside = shares[:, 1, 8:12].sum()
    assert float(shares.sum() - inside) <= 1e-5 * float(inside)


def test_shares_of_the_active_window_are_the_change_of_the_score() -> None:
    task = abe.series_task(Active(), "btc", window=4)
    x = rows(2, 24, 3)
    score = Active()(x)[:, 0]
    mean = x.mean(1, keepdim=True).expand_as(x)
    found = explained(task, x, "shapley", units="window", target=0)
    same(found.attribution[:, :, 8:12].sum((1, 2)), score - Active()(mean)[:, 0], 1e-5)


# --- references and removals --------------------------------------------------------------------------


def test_references() -> None:
    x, background = rows(2, 24, 3), rows(5, 24, 3, seed=8)
    plain = abe.series_task(seeded(Lstm), "btc", mean=[1.0, 2.0, 3.0], std=2.0)
    first = x.movedim(1, 2)
    wanted = {
        None: first.mean(2, keepdim=True).expand_as(first),
        "mean": first.mean(2, keepdim=True).expand_as(first),
        "zero": torch.zeros_like(first),
        "scaled_zero": torch.tensor([1.0, 2.0, 3.0])[None, :, None].expand_as(first),
    }
    for name, reference in wanted.items():
        how = {} if name is None else {"baseline": name}
        same(explained(plain, x, path_ends=True, **how).diagnostics["path_start"], reference, 1e-6)
    with_background = abe.series_task(seeded(Lstm), "btc", background=background)
    found = explained(with_background, x, path_ends=True)
    same(found.diagnostics["path_start"][0], background.mean(0).T, 1e-6)
    games = explained(with_background, x, "occlusion", units="channel")
    assert games.diagnostics["evaluations"].tolist() == [15, 15]
    assert explained(with_background, x, "expected_gradients", samples=10).shape == (2, 3, 24)


def line(x: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """One channel filled as the definition says, step by step."""
    places = np.arange(len(x))
    return np.interp(places, places[keep], x[keep]) if keep.any() else np.full(len(x), x.mean())


@settings(max_examples=40, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=1, max_size=16), seed=st.integers(0, 99))
def test_a_gap_is_a_straight_line(mask: list[bool], seed: int) -> None:
    t = len(mask)
    x = rows(1, 3, t, seed=seed, dtype=torch.float64)
    keep = torch.tensor(mask)[None, None]
    zero = torch.zeros(1, dtype=torch.long)
    with open_request(abe.series_task(seeded(Cnn).double(), "bct"), x) as problem:
        made: Any = (
            Interpolate().bind(problem, segments_of(Pixel(), problem.x)).rows(Absent(zero, zero, keep))
        )
    wanted = np.stack([line(one, np.array(mask)) for one in x[0].numpy()])
    same(made[0], torch.from_numpy(wanted))


def test_a_straight_series_loses_nothing_by_interpolation_inside() -> None:
    x = torch.linspace(0, 1, 24)[None, :, None].expand(1, 24, 3).contiguous()
    found = explained(
        abe.series_task(seeded(Lstm), "btc"), x, "occlusion", units="window", removal="interpolate"
    )
    assert float(found.attribution[:, :, 2:-2].abs().max()) < 1e-6


# --- lengths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ig", "gradient", "deeplift", "shapley", "occlusion", "lrp_epsilon"])
@pytest.mark.parametrize("removal", ["mean", "interpolate"])
def test_series_of_different_lengths_are_each_as_if_alone(method: str, removal: str) -> None:
    task = abe.series_task(seeded(Lstm).double(), "btc", window=4)
    one, two = rows(24, 3, dtype=torch.float64), rows(10, 3, seed=5, dtype=torch.float64)
    how: dict[str, Any] = {"removal": removal} if method in ("occlusion", "shapley") else {}
    if how:
        how["units"] = "window"
    elif removal == "interpolate":
        return
    both = explained(task, [one, two], method, **how)
    alone = explained(task, two, method, **how)
    same(both.attribution[1, :, :10], alone.attribution[0], 1e-9)
    assert float(both.attribution[1, :, 10:].abs().max()) == 0
    assert [name for name, _ in both.by_unit()[1]] == [name for name, _ in alone.by_unit()[0]]


def test_models_of_one_length_say_so() -> None:
    task = abe.series_task(seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 2))), "btc")
    with pytest.raises(AbeError, match="different lengths") as caught:
        explained(task, [rows(24, 3), rows(10, 3)])
    assert caught.value.code == Code.MODEL_FAILED


def test_lengths_go_to_a_model_that_takes_them() -> None:
    class Counted(nn.Module):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            inside = torch.arange(x.shape[1]) < lengths[:, None]
            total = (x.sum(2) * inside).sum(1)
            return torch.stack([total, -total], 1)

    found = explained(abe.series_task(Counted(), "btc"), [rows(6, 2), rows(3, 2)], "gradient", target=0)
    assert found.attribution[1].sum() == 6
    assert float(found.attribution[1, :, 3:].abs().sum()) == 0


def test_further_inputs_are_passed_along() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            total = x.sum((1, 2)) * scale
            return torch.stack([total, -total], 1)

    raw = {"x": rows(2, 6, 2), "scale": torch.tensor([2.0, 3.0])}
    found = explained(abe.series_task(Scaled(), "btc"), raw, "gradient", target=0)
    assert found.attribution[:, 0, 0].tolist() == [2.0, 3.0]


# --- forecasts ----------------------------------------------------------------------------------------


def test_a_forecast_is_compared_on_its_own_score() -> None:
    task = abe.series_task(seeded(Forecast), "btc", output_kind="regression")
    x = rows(2, 24, 3)
    found = abe.compare(task, x, ["ig", "occlusion"], target=(1, 2), progress=False)
    assert not found.failures
    assert {metric.name for metric in found.metrics} >= {"insertion", "deletion", "gap", "residual"}
    with pytest.raises(AbeError, match="not clear which output"):
        explained(task, x)
    each = explained(task, x, target=[(1, 2), (0, 0)])
    assert each.target.tolist() == [[1, 2], [0, 0]]


def test_insertion_follows_the_score_of_a_forecast() -> None:
    """Of an additive score from zero, the curve is the running sum of the shares."""

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(2)[:, :2, None] * torch.tensor([1.0, 2.0])

    x = torch.tensor([[[1.0], [3.0]]])
    task = abe.series_task(Sum(), "btc", output_kind="regression", window=1)
    found = abe.evaluate(
        task,
        {"map": explained(task, x, "gradient_x_input", target=(1, 1))},
        [("insertion", {"curve": "logit", "baseline": "zero"})],
        data=x,
        target=(1, 1),
        progress=False,
    )
    assert found.scores["map"]["insertion"].values.tolist() == [pytest.approx(0.75 * 6)]


# --- images stay images -------------------------------------------------------------------------------


def test_three_axes_are_no_single_image_in_silence() -> None:
    class Any3(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.flatten(1).sum(1), x.flatten(1).mean(1)], 1)

    for shape in ((5, 24, 7), (2, 24, 5), (8, 16, 16)):
        with pytest.raises(AbeError, match="not clear which axes"):
            explained(abe.image_task(Any3(), bounds=None), rows(*shape), "gradient")
    for model, shape in ((seeded(Cnn), (3, 3, 24)), (seeded(Lstm), (3, 24, 3)), (seeded(Cnn), (1, 3, 24))):
        with pytest.raises(AbeError, match="reads series"):
            explained(abe.image_task(model, bounds=None), rows(*shape), "gradient")


def test_robustness_is_measured_on_the_same_axes() -> None:
    """As many steps as channels: features that are read as inputs again would be turned in silence."""
    model, x = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 2))), rows(6, 3, 3)
    lies = {"btc": x, "bct": x.movedim(1, 2).contiguous()}
    model_of = {"btc": model, "bct": Turned(model)}
    found = [
        abe.evaluate_robustness(
            abe.series_task(model_of[axes], axes), raw, "fgsm", epsilons=[0.1, 0.4], progress=False
        )
        for axes, raw in lies.items()
    ]
    assert torch.equal(found[0].broken_at, found[1].broken_at)
    tasks = {"one": abe.series_task(model, "btc"), "other": abe.series_task(model, "btc")}
    table = abe.transfer_matrix(tasks, x, "fgsm", eps=0.4, progress=False)
    assert table.rates.unique().numel() == 1
