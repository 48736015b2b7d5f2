"""What the adversarial methods refuse, and what they report per sample."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code
from abe.testing import nets, samples

QUICK: dict[str, dict[str, Any]] = {
    "mfaba": {"steps": 4},
    "agi": {"samples": 2, "steps": 3},
    "la": {"samples": 2, "steps": 2},
    "laai": {"samples": 2, "steps": 2},
    "attexplore": {"samples": 2, "steps": 2},
    "big": {"search_steps": 4, "steps": 4},
    "isa": {"steps": 2},
}
"""Every adversarial method at settings that take no time."""


def explained(net: nn.Module, x: Tensor, method: Any, **how: Any) -> Any:
    task = abe.image_task(net.eval(), channels=x.shape[1], output_kind="logits")
    return abe.explain(task, x, method, execution="model", progress=False, **how)


class OneOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).square().sum(1, keepdim=True) * self.one


class Half(nn.Module):
    """Class 1 is the mean light. Bright images are near the boundary, dark ones have none within reach."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        light = x.flatten(1).mean(1) * self.one
        return torch.stack([torch.where(light < 0.3, 9.0 - light, 0.5 + 0 * light), light], 1)


def lights(*values: float) -> Tensor:
    return torch.stack([torch.full((3, 4, 4), v, dtype=torch.float64) for v in values])


SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "mfaba: alpha of zero": ("mfaba", {"alpha": 0.0}),
    "mfaba: negative alpha": ("mfaba", {"alpha": -0.1}),
    "mfaba: alpha that is no number": ("mfaba", {"alpha": float("nan")}),
    "mfaba: alpha beyond the range": ("mfaba", {"alpha": 1.5}),
    "mfaba: epsilon of zero": ("mfaba", {"epsilon": 0.0}),
    "mfaba: epsilon beyond the range": ("mfaba", {"epsilon": 3.0}),
    "agi: alpha of zero": ("agi", {"alpha": 0}),
    "agi: alpha beyond the range": ("agi", {"alpha": 2.0}),
    "laai: alpha beyond the range": ("laai", {"alpha": 1.0 + 1e-3}),
    "laai: infinite alpha": ("laai", {"alpha": float("inf")}),
    "la: spatial range of zero": ("la", {"spatial_range": 0.0}),
    "la: negative floor": ("la", {"floor": -0.1}),
    "la: floor beyond the range": ("la", {"floor": 1.5}),
    "attexplore: epsilon of zero": ("attexplore", {"epsilon": 0.0}),
    "attexplore: epsilon beyond the range": ("attexplore", {"epsilon": 1.5}),
    "attexplore: even kernel": ("attexplore", {"kernel": 4}),
    "attexplore: negative rho": ("attexplore", {"rho": -0.1}),
    "isa: alpha of zero": ("isa", {"alpha": 0.0}),
    "isa: alpha beyond the range": ("isa", {"alpha": 4.0}),
    "big: no radius": ("big", {"radii": ()}),
    "big: radius of zero": ("big", {"radii": (0.0, 0.1)}),
    "big: radii that fall": ("big", {"radii": (0.2, 0.1)}),
    "big: radius beyond every input": ("big", {"radii": (80.0,)}),
    "an attack with eps of zero": ("path_attribution", {"update": ("bim", {"eps": 0.0})}),
    "an attack with eps beyond the range": ("path_attribution", {"update": ("pgd", {"eps": 8.0})}),
    "no steps": ("agi", {"steps": 0}),
    "no samples": ("laai", {"samples": 0}),
}


@pytest.mark.parametrize("what", SIZES)
def test_sizes_that_make_no_sense(what: str) -> None:
    name, params = SIZES[what]
    with pytest.raises(AbeError, match="ABE-BAD-PARAMETER"):
        explained(nets.Smooth(), samples(2), name, **{**QUICK.get(name, {}), **params})


@pytest.mark.parametrize("name", ["agi", "la", "laai"])
def test_classes_that_do_not_exist(name: str) -> None:
    for classes in ((1, 5), (-1,)):
        with pytest.raises(AbeError, match="ABE-TARGET-RANGE"):
            explained(nets.Smooth(), samples(2), name, **QUICK[name], classes=classes)


def test_a_target_that_does_not_exist() -> None:
    for name, params in QUICK.items():
        with pytest.raises(AbeError, match="ABE-TARGET-RANGE"):
            explained(nets.Smooth(), samples(2), name, **params, target=5)
    own = abe.chain(None, abe.robustness.Sign(), alpha=0.01, target=9)
    with pytest.raises(AbeError, match="ABE-BAD-PARAMETER"):
        explained(nets.Smooth(), samples(2), "path_attribution", update=own, steps=1)


@pytest.mark.parametrize("name", ["agi", "laai"])
def test_a_run_towards_the_explained_class_itself(name: str) -> None:
    with pytest.raises(AbeError, match="ABE-TARGET-RANGE"):
        explained(nets.Smooth(), samples(2), name, **QUICK[name], classes=(1,), target=1)
    both = explained(nets.Smooth(), samples(2), name, **QUICK[name], classes=(1, 3), target=1)
    other = explained(nets.Smooth(), samples(2), name, **QUICK[name], classes=(3,), target=1)
    torch.testing.assert_close(both.attribution, other.attribution, rtol=1e-12, atol=0)


def test_own_classes_leave_samples_with_different_numbers_of_runs() -> None:
    """Also where only some samples are refined again."""
    how = {"classes": (0, 2), "target": [0, 1, 2], "steps": 3, "tolerance": 1e-4}
    found = explained(nets.Smooth(scale=12.0), samples(3), "laai", **how)
    assert (found.diagnostics["steps"] > 0).sum(1).tolist() == [1, 2, 1]
    for i in range(3):
        alone = explained(
            nets.Smooth(scale=12.0), samples(3)[i : i + 1], "laai", **{**how, "target": how["target"][i]}
        )
        torch.testing.assert_close(alone.attribution[0], found.attribution[i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["agi", "la", "laai", "big", "attexplore"])
def test_a_model_with_one_output_has_no_other_class(name: str) -> None:
    with pytest.raises(AbeError, match="ABE-UNSUPPORTED"):
        explained(OneOutput(), samples(2), name, **QUICK[name])


def test_an_attack_on_one_output_is_refused_and_its_score_can_be_descended() -> None:
    with pytest.raises(AbeError, match="ABE-UNSUPPORTED"):
        explained(OneOutput(), samples(2), "path_attribution", update="bim")
    for name in ("mfaba", "isa"):
        found = explained(OneOutput(), samples(2), name, **QUICK[name])
        assert bool(torch.isfinite(found.attribution).all())
    down = abe.chain(None, abe.robustness.Sign(), alpha=0.01, loss="logit")
    moved = explained(OneOutput(), samples(2), "path_attribution", update=down, steps=3, tolerance=0.01)
    assert bool((moved.delta > 0).all())


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mfaba", {"alpha": 0.02, "steps": 20}),
        ("mfaba", {"alpha": 0.02, "steps": 20, "path": "cos"}),
        ("agi", {"steps": 5}),
        ("big", {"search_steps": 10, "radii": (0.1, 0.5, 1.0)}),
    ],
)
def test_a_path_that_never_crosses_is_told_per_sample(name: str, params: dict[str, Any]) -> None:
    x = lights(0.1, 0.56, 0.2, 0.6)
    found = explained(Half(), x, name, **params)
    assert found.diagnostics["success"].tolist() == [False, True, False, True]
    (warning,) = (w for w in found.warnings if Code.NOT_CROSSED.value in w)
    assert "sample 0, 2" in warning
    near = explained(Half(), x[[1, 3]], name, **params, ids=[found.ids[1], found.ids[3]])
    torch.testing.assert_close(near.attribution, found.attribution[[1, 3]], rtol=1e-9, atol=1e-12)
    assert not [w for w in near.warnings if Code.NOT_CROSSED.value in w]


class Pushes:
    """A user's step that works for two steps and then goes wrong."""

    def __init__(self, wrong: Any) -> None:
        self.wrong = wrong

    def step(self, point: Any, state: Any) -> Any:
        moved = point.clip(point.x - 0.01 * point.gradient.sign())
        return (moved if point.step < 2 else self.wrong(moved)), state


WRONG = {
    "NaN": (lambda x: x * torch.nan, "NaN or infinity"),
    "a part of the rows": (lambda x: x[:1], "next point of every row"),
    "the change in another shape": (lambda x: x.flatten(1), "next point of every row"),
    "numbers": (lambda x: x.tolist(), "next point of every row"),
    "out of bounds": (lambda x: x + 2, "left the task's bounds"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("method", ["path_attribution", "attexplore"])
def test_updates_that_go_wrong_on_the_way(method: str, what: str) -> None:
    wrong, words = WRONG[what]
    quick = {"samples": 2} if method == "attexplore" else {}
    with pytest.raises(AbeError, match=f"(?s){words}.*ABE-UPDATE"):
        explained(nets.Smooth(), samples(2), method, update=Pushes(wrong), steps=4, **quick)


def test_what_is_no_update() -> None:
    with pytest.raises(AbeError, match="ABE-UPDATE"):
        explained(nets.Smooth(), samples(1), "attexplore", update=3)
    for method in ("path_attribution", "attexplore"):
        with pytest.raises(AbeError, match="ABE-UNKNOWN-NAME"):
            explained(nets.Smooth(), samples(1), method, update="pdg")


def test_nodes_inside_the_steps_need_the_plain_gradient() -> None:
    for params in (
        {"method": "mfaba", "path": "cos", "tolerance": 0.1},
        {"method": "mfaba", "variant": "published", "segment_nodes": 2},
        {"method": "agi", "variant": "published", "tolerance": 0.1},
        {"method": "la", "variant": "published", "segment_nodes": 2},
    ):
        with pytest.raises(AbeError, match="ABE-BAD-PARAMETER"):
            explained(nets.Smooth(), samples(1), **params)


def test_the_score_that_laai_explains_is_the_one_in_the_result() -> None:
    x = samples(2)
    found = explained(nets.Smooth(), x, "laai", objective="logit", steps=5)
    with torch.no_grad():
        log = nets.Smooth()(x).log_softmax(1)
    decisiveness = -log.mean(1) - torch.log(torch.tensor(float(log.shape[1])))
    assert "agnostic" in found.objective.lower()
    torch.testing.assert_close(found.score, decisiveness)


def test_laai_is_algorithm_2_step_by_step_with_the_sign_of_equation_5() -> None:
    """The paper's loop, one sample and one class at a time; line 6 has the other sign and no 1 / (C M)."""
    net, eta, steps, classes = nets.Smooth(scale=12.0), 0.05, 6, (1, 3)
    how = {"classes": classes, "steps": steps, "alpha": eta, "rule": "left", "target": [0, 2]}
    found = explained(net, samples(2), "laai", **how)
    for row, start in enumerate(samples(2)):
        printed = torch.zeros_like(start)
        for goal in classes:
            x = start[None]
            for _ in range(steps):
                x = x.detach().requires_grad_(True)
                log = net(x).log_softmax(1)
                loss, everything = -log[0, goal], log.sum()
                (down,) = torch.autograd.grad(loss, x, retain_graph=True)
                (spread,) = torch.autograd.grad(everything, x)
                moved = (x - eta * down.sign()).clamp(0, 1).detach()
                printed += ((x - moved) * spread)[0].detach()
                x = moved
        share = len(classes) * log.shape[1]
        torch.testing.assert_close(found.attribution[row], -printed / share, rtol=1e-10, atol=1e-13)


PLAIN: dict[str, dict[str, Any]] = {
    "mfaba": {"alpha": 0.02},
    "agi": {"samples": 3},
    "la": {"samples": 3, "steps": 10},
    "laai": {"samples": 3, "alpha": 0.05},
    "big": {},
    "path_attribution": {"update": ("mim", {"eps": 0.2})},
}
"""Paths whose integrand is the plain gradient at their own points."""


@pytest.mark.parametrize("name", PLAIN)
def test_a_tolerance_makes_every_plain_path_complete(name: str) -> None:
    x = samples(3)
    found = explained(nets.Smooth(scale=12.0), x, name, **PLAIN[name], tolerance=0.02)
    told = found.diagnostics.get("success", torch.ones(3, dtype=torch.bool))
    moved = found.delta.abs() > 1e-6
    assert bool((moved & told).any())
    assert float(found.residual[moved].abs().max()) <= 0.02


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("attexplore", {"samples": 4}),
        ("mfaba", {"path": "cos", "alpha": 0.05, "steps": 10}),
        ("mfaba", {"variant": "published", "alpha": 0.02}),
        ("agi", {"variant": "published", "samples": 3}),
        ("la", {"variant": "published", "samples": 3}),
    ],
)
def test_what_cannot_be_complete_is_not_and_its_card_says_so(name: str, params: dict[str, Any]) -> None:
    found = explained(nets.Smooth(scale=12.0), samples(3), name, **params)
    assert float(found.residual.abs().max()) > 0.02
    card = abe.registry.methods.get(name).card
    assert "completeness" not in card.guarantees
    assert "completeness" in card.expected_failures
