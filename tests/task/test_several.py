"""Several inputs: each with its own bounds, scaling, units and reference."""

from typing import Any

import pytest
import torch
from tests.task.array.series_nets import seeded
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code

MEAN, STD = (0.4, 0.5, 0.6), 0.25
AGES, WIDTHS = [50.0, 3.0, 0.5], [20.0, 2.0, 1.0]


class Both(nn.Module):
    """An image with numbers beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.m, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(3, 4), nn.Linear(8, 3)

    def forward(self, image: Tensor, meta: Tensor, scale: Tensor | None = None) -> Tensor:
        seen = torch.cat([self.a(image).relu().mean((2, 3)), self.m(meta).relu()], 1)
        return self.out(seen if scale is None else seen * scale[:, None])


def rows(*shape: int, seed: int = 3) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def given(b: int = 2) -> dict[str | int, Any]:
    return {"image": rows(b, 3, 8, 8), "meta": rows(b, 3, seed=4) * torch.tensor([60.0, 5.0, 1.0])}


def task_of(**how: Any) -> abe.Task:
    readings = {
        "image": abe.image(mean=MEAN, std=STD),
        "meta": abe.columns(["age", "dose", "sex"], mean=AGES, std=WIDTHS, **how),
    }
    return abe.make_task(seeded(Both), readings)


def explained(task: abe.Task, raw: Any, method: Any = "ig", **how: Any) -> abe.Explanation:
    return abe.explain(task, raw, method, progress=False, **how)


def scaled(raw: dict[Any, Any]) -> tuple[Tensor, Tensor]:
    image = (raw["image"] - torch.tensor(MEAN).view(1, 3, 1, 1)) / STD
    return image, (raw["meta"] - torch.tensor(AGES)) / torch.tensor(WIDTHS)


def test_each_input_is_scaled_and_given_back_by_its_name() -> None:
    raw = given()
    found = explained(task_of(), raw, "gradient")
    image, meta = (one.requires_grad_() for one in scaled(raw))
    seeded(Both)(image, meta).gather(1, found.target[:, None]).sum().backward()
    assert image.grad is not None
    assert meta.grad is not None
    assert torch.allclose(found.part("image"), image.grad / STD, atol=1e-6)
    assert torch.allclose(found.part("meta"), meta.grad / torch.tensor(WIDTHS), atol=1e-6)
    with pytest.raises(AbeError, match="No explained input"):
        found.part("text")


def test_each_input_has_its_own_reference() -> None:
    raw = given()
    found = explained(task_of(), raw, path_ends=True)
    start = found.diagnostics["path_start"]
    assert float(start[:, : 3 * 64].abs().max()) == 0
    assert start[0, 3 * 64 :].tolist() == AGES
    assert found.residual is not None
    assert float(found.residual.abs().max()) < 1e-2
    other = explained(
        task_of(), raw, path_ends=True, baseline=("each_part", {"parts": {"image": "mean", "meta": 1.0}})
    )
    start = other.diagnostics["path_start"]
    assert torch.allclose(start[0, :64], raw["image"][0, 0].mean().expand(64), atol=1e-6)
    assert start[0, 3 * 64 :].tolist() == [1.0, 1.0, 1.0]
    rows_ = rows(5, 3, seed=9)
    of_background = explained(task_of(background=rows_), raw, path_ends=True)
    assert torch.allclose(of_background.diagnostics["path_start"][0, 3 * 64 :], rows_.mean(0))


def test_a_mean_is_never_taken_over_different_inputs() -> None:
    raw = given()
    start = explained(task_of(), raw, path_ends=True, baseline="mean").diagnostics["path_start"]
    assert torch.allclose(start[0, 64:128], raw["image"][0, 1].mean().expand(64), atol=1e-6)
    assert torch.allclose(start[0, 192:], raw["meta"][0].mean().expand(3))


def test_units_are_cells_and_columns_or_whole_inputs() -> None:
    found = explained(task_of(), given(), "occlusion")
    assert found.diagnostics["evaluations"].tolist() == [19, 19]
    names = found.unit_names[0]
    assert names[0] == "image rows 0–1 columns 0–1"
    assert names[-3:] == ["meta age", "meta dose", "meta sex"]
    whole = explained(task_of(), given(), "shapley", units="input")
    assert whole.diagnostics["evaluations"].tolist() == [3, 3]
    assert whole.residual is not None
    assert float(whole.residual.abs().max()) < 1e-4


def test_exact_shares_of_two_inputs() -> None:
    """The Shapley value of two players, by hand."""
    raw, model = given(1), seeded(Both)
    found = explained(task_of(), raw, "shapley", units="input", target=1)
    image, meta = scaled(raw)
    black = scaled({"image": torch.zeros_like(raw["image"]), "meta": raw["meta"]})[0]
    usual = torch.zeros_like(meta)
    pairs = [(i, m) for i in (0, 1) for m in (0, 1)]
    with torch.no_grad():
        score = {(i, m): float(model((black, image)[i], (usual, meta)[m])[0, 1]) for i, m in pairs}
    share = (score[1, 1] - score[0, 1] + score[1, 0] - score[0, 0]) / 2
    assert float(found.part("image").sum()) == pytest.approx(share, abs=1e-5)


def test_by_place_or_by_name_and_with_more_inputs() -> None:
    raw = given()
    readings = {0: abe.image(mean=MEAN, std=STD), 1: abe.columns(mean=AGES, std=WIDTHS)}
    placed = explained(abe.make_task(seeded(Both), readings), (raw["image"], raw["meta"]))
    named = explained(task_of(), raw)
    assert torch.allclose(placed.attribution, named.attribution, atol=1e-6)
    assert torch.allclose(placed.part(1), named.part("meta"), atol=1e-6)
    more = explained(task_of(), {**raw, "scale": torch.tensor([1.0, 2.0])}, "gradient", target=0)
    once = explained(task_of(), raw, "gradient", target=0)
    assert torch.allclose(more.attribution[1], 2 * once.attribution[1], atol=1e-6)


def test_two_inputs_of_one_shape_lie_along_channels() -> None:
    class Two(nn.Module):
        def forward(self, before: Tensor, after: Tensor) -> Tensor:
            change = (after - before).flatten(1).sum(1)
            return torch.stack([change, -change], 1)

    task = abe.make_task(Two(), {"before": abe.image(), "after": abe.image()})
    raw = {"before": rows(2, 3, 8, 8), "after": rows(2, 3, 8, 8, seed=5)}
    found = explained(task, raw, "gradient_x_input", target=0)
    assert found.shape == (2, 6, 8, 8)
    assert torch.allclose(found.part("before"), -raw["before"])
    assert torch.allclose(found.part("after"), raw["after"])


def test_series_beside_columns() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.GRU(2, 4, batch_first=True), nn.Linear(7, 2)

        def forward(self, load: Tensor, static: Tensor) -> Tensor:
            return self.out(torch.cat([self.rnn(load)[0][:, -1], static], 1))

    task = abe.make_task(seeded(Mixed), {"load": abe.series("btc", window=6), "static": abe.columns()})
    raw = {"load": rows(2, 12, 2), "static": rows(2, 3)}
    found = explained(task, raw, path_ends=True)
    assert found.part("load").shape == (2, 2, 12)
    assert found.unit_names[0][:2] == ["load ch0 t 0–5", "load ch1 t 0–5"]
    start = found.diagnostics["path_start"][:, :24].view(2, 2, 12)
    assert torch.allclose(start, raw["load"].movedim(1, 2).mean(2, keepdim=True).expand_as(start), atol=1e-6)


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "bim", "mim"])
def test_attacks_keep_the_bounds_of_every_input(attack: str) -> None:
    raw = given()
    found = abe.attack(task_of(), raw, attack, eps=0.3, progress=False)
    moved = found.x_adv[:, : 3 * 64]
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    free = found.x_adv[:, 3 * 64 :] - raw["meta"]
    assert 0 < float(free.abs().max()) <= 0.3 + 1e-4


def test_an_attack_inside_bounds_needs_those_of_every_input() -> None:
    with pytest.raises(AbeError, match="without bounds") as caught:
        abe.attack(task_of(), given(), "cw", progress=False)
    assert caught.value.code == Code.UNSUPPORTED


@pytest.mark.parametrize("method", ["mfaba", "agi", "smoothgrad", "guided_ig", "big"])
def test_what_moves_inputs_runs_where_one_has_no_bounds(method: str) -> None:
    found = explained(task_of(), given(), method)
    assert bool(torch.isfinite(found.attribution).all())


BAD: dict[str, tuple[Any, str]] = {
    "an image alone": (rows(1, 3, 8, 8), "come by name"),
    "one missing": ({"image": rows(1, 3, 8, 8)}, "'meta' was not given"),
    "one too many": ({**given(1), "text": "a"}, "no input called 'text'"),
    "other numbers of samples": ({"image": rows(1, 3, 8, 8), "meta": rows(2, 3)}, "disagree"),
    "two columns": ({"image": rows(1, 3, 8, 8), "meta": rows(1, 2)}, "other columns than names"),
    "three axes": ({"image": rows(1, 3, 8, 8), "meta": rows(1, 2, 3)}, "numbers .b, d."),
    "a bright image": ({"image": 2 * torch.ones(1, 3, 8, 8), "meta": rows(1, 3)}, "input 'image'"),
    "a gap": ({"image": rows(1, 3, 8, 8), "meta": torch.full((1, 3), torch.nan)}, "input 'meta'"),
    "no rows": ({"image": rows(1, 3, 8, 8), "meta": rows(0, 3)}, "Columns are numbers"),
    "a table without age": ({"image": rows(1, 3, 8, 8), "meta": {"dose": [1.0], "sex": [0.0]}}, "no column"),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_inputs_are_refused(name: str) -> None:
    raw, said = BAD[name]
    with pytest.raises(AbeError, match=said):
        explained(task_of(), raw)


@pytest.mark.parametrize("inputs", [{}])
def test_readings_that_are_none_are_refused(inputs: Any) -> None:
    with pytest.raises(AbeError) as caught:
        abe.make_task(seeded(Both), inputs)
    assert caught.value.code == Code.BAD_PARAMETER


def test_columns_by_name_and_of_integers() -> None:
    raw = given()
    table = {"sex": [0, 1], "age": [30, 40], "dose": [1, 2]}
    found = explained(task_of(), {"image": raw["image"], "meta": table}, "gradient")
    assert found.x[:, 192:].tolist() == [[30.0, 1.0, 0.0], [40.0, 2.0, 1.0]]


def test_what_is_saved_comes_back_by_name(tmp_path: Any) -> None:
    found = explained(task_of(), given())
    again = abe.Explanation.load(found.save(tmp_path / "both"))
    assert torch.equal(again.part("meta"), found.part("meta"))
    assert again.by_unit() == found.by_unit()
