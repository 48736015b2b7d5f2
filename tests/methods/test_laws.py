"""Every registered method and metric against every law that its card allows."""

from typing import Any

import pytest
import torch

import abe
from abe import registry
from abe.testing import (
    KNOWN,
    TASK_LAWS,
    Known,
    check_objective,
    check_path,
    check_update,
    laws,
    metric_laws,
    samples,
    task_of,
)
from abe.testing.methods import METHOD_LAWS, check_method, method_case
from abe.testing.metrics import METRIC_LAWS, check_metric, metric_case
from abe.types import Card

ONE_BY_ONE = frozenset(
    {"banzhaf", "interactions", "shapley", "pdiff", "loss_shap", "input_iba", "isa", "m2ib", "ace", "iba"}
)
"""Their thousands of rows one at a time take ten seconds; others of their engines show the same sooner."""


OTHER_KINDS = frozenset(one for one in TASK_LAWS if one.startswith("on_"))
"""Laws that an engine meets or breaks; every method runs on texts and series under "lengths"."""


def methods_and_laws() -> list[Any]:
    """Every law of every method; what one has shown of other kinds is slow for the rest of its engine."""
    seen, params = set[type](), []
    for name in registry.methods.names():
        engine = type(method_case(name).method.engine)
        for one in laws(name):
            takes_long = one.name == "chunk" and name in ONE_BY_ONE
            again = one.name in OTHER_KINDS and engine in seen
            marks = [pytest.mark.slow] * (takes_long or again)
            params.append(pytest.param(name, one.name, id=f"{name}-{one.name}", marks=marks))
        seen.add(engine)
    return params


METHODS = methods_and_laws()
OF_EACH = ("ranking", "constant", "spec", "docstring", "cost")
"""Laws of what a metric means; the others are about how its kind computes."""
LONG = ("road_lerf",)
"""Metrics that take seconds for what another of their kind, run the other way round, shows too."""


def kinds() -> dict[str, tuple[Any, ...]]:
    """What a metric computes with, by its name."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in registry.metrics.names():
        metric = metric_case(name).metric
        baselines = (run.baseline for run in metric.runs)
        found[name] = (type(metric.value), getattr(metric.value, "what", ""), *baselines)
    return found


def metrics_and_laws() -> list[Any]:
    """Every law of every metric; what the first of a kind has shown is slow for the rest of it."""
    seen, params = set(), []
    for name, kind in kinds().items():
        for one in metric_laws(name):
            again = kind in seen and (one.name not in OF_EACH or name in LONG)
            marks = [pytest.mark.slow] if again else []
            params.append(pytest.param(name, one.name, id=f"{name}-{one.name}", marks=marks))
        seen.add(kind)
    return params


METRICS = metrics_and_laws()
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "ig from a blur": ("ig", {"baseline": "blur", "steps": 20}),
    "ig by Simpson": ("ig", {"quadrature": "simpson", "steps": 101}),
    "ig within a tolerance": ("ig", {"tolerance": 5e-5}),
    "eg from noise": ("eg", {"baseline": "noise", "samples": 8}),
    "guided ig refined": ("gig", {"steps": 6, "tolerance": 0.05}),
    "path by a function": ("path_integral", {"path": "ease", "steps": 100}),
    "update with nodes inside": ("path_attribution", {"update": "descent", "steps": 3, "segment_nodes": 3}),
    "update until the label flips": ("path_attribution", {"update": "descent", "steps": 6, "stop": "flip"}),
    "update from a baseline": ("path_attribution", {"update": "descent", "steps": 3, "start": "blur"}),
    "smoothed ig": ("smooth", {"base": ("ig", {"steps": 4}), "samples": 3}),
    "VarGrad of Grad × Input": ("smooth", {"base": "gxi", "samples": 5, "reduce": "variance"}),
    "ensemble with draws": ("ensemble", {"bases": ("gradient", ("smoothgrad", {"samples": 3}))}),
    "occlusion by a background": ("occlusion", {"removal": samples(3, seed=9)}),
    "shapley by orders": ("shapley", {"estimator": "permutation", "evaluations": 60}),
    "shapley by orders of groups": ("shapley", {"estimator": "owen", "evaluations": 60}),
    "shapley over a random baseline": ("shapley", {"units": ("grid", {"n": 2}), "removal": "uniform"}),
    "shapley over the nearest": (
        "shapley",
        {
            "units": ("grid", {"n": 2}),
            "removal": ("conditional", {"samples": samples(4, seed=9), "nearest": 2}),
        },
    ),
    "mean when included": ("removal", {"summary": "mean_when_included", "evaluations": 64}),
    "baylime with a prior": ("baylime", {"prior": ("occlusion", {}), "units": ("grid", {"n": 3})}),
    "smoothed and changed": (
        "postprocess",
        {"base": ("sg", {"samples": 3}), "steps": ("positive", "unit_sum")},
    ),
}


@pytest.mark.parametrize(("method", "law"), METHODS)
def test_method(method: str, law: str) -> None:
    check_method(method, only=law)


QUICK: dict[str, Any] = {"step": 0.2, "samples": 3, "groups": 10, "ratios": (0.98, 0.9, 0.7, 0.5, 0.3, 0.1)}
"""Coarser settings where a law is about rows, not about how finely is looked."""
FINE = ("ranking", "constant", "spec", "docstring")


@pytest.mark.parametrize(("metric", "law"), METRICS)
def test_metric(metric: str, law: str) -> None:
    known = registry.metrics.get(metric).parameters()
    chosen = ("ratios",) if law in FINE[:2] else () if law in FINE else tuple(QUICK)
    quick = {name: QUICK[name] for name in chosen if name in known}
    check_metric(metric, only=law, **quick)


def ease_in(x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    return x * alpha.view(-1, *[1] * (x.ndim - 1)).square()


LONG = frozenset({"shapley over a random baseline", "baylime with a prior"})


@pytest.mark.parametrize(
    "setting", [pytest.param(s, marks=[pytest.mark.slow] * (s in LONG)) for s in SETTINGS]
)
def test_other_settings(setting: str) -> None:
    """What does not hold by default only: laws that no parameter may break."""
    name, params = SETTINGS[setting]
    if params.get("path") == "ease":
        params = {**params, "path": ease_in}
    depends = {"completeness", "linearity", "sensitivity", "symmetry", *TASK_LAWS}
    always = [n for n in METHOD_LAWS.names() if n not in depends]
    check_method(name, only=always, **{**params, **({"tolerance": 0.05} if "tolerance" in params else {})})


@pytest.mark.parametrize(
    "setting", ["ig from a blur", "ig by Simpson", "ig within a tolerance", "path by a function"]
)
def test_other_settings_are_complete(setting: str) -> None:
    name, params = SETTINGS[setting]
    check_method(name, only="completeness", **{**params, **({"path": ease_in} if "path" in params else {})})


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_known_attributions(known: Known) -> None:
    x = samples(3)
    u, v = x.flatten(1)[:, 0], x.flatten(1)[:, 1]
    expected = {
        "gradient": known.gradient(u, v),
        "gradient_x_input": known.gradient(u, v) * torch.stack([u, v], 1),
        "integrated_gradients": known.integrated(u, v),
    }
    for name, numbers in expected.items():
        found = abe.explain(task_of(known.net()), x, name, target=1, execution="model", progress=False)
        torch.testing.assert_close(found.attribution.flatten(1)[:, :2], numbers, rtol=1e-12, atol=1e-12)
        assert not found.attribution.flatten(1)[:, 2:].any()


@pytest.mark.parametrize("name", registry.paths.names())
def test_path(name: str) -> None:
    check_path(name)


OF_ANSWERS = {"sequence"}
"""Objectives of whole answers, which only a language model gives; tests/task/language holds them."""


@pytest.mark.parametrize("name", [n for n in registry.objectives.names() if n not in OF_ANSWERS])
def test_objective(name: str) -> None:
    check_objective(name, **({"layer": "first", "index": 2} if name == "unit" else {}))


UPDATES = [e.name for e in registry.updates.entries() if set(e.required()) <= set(e.card.example)]
"""A trained generator (AdvGAN) meets its laws in tests/robustness."""


SECONDS = ("sia",)
"""The longest of all updates; recorded numbers hold it too."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SECONDS else n for n in UPDATES]
)
def test_update(name: str) -> None:
    check_update(name)


@pytest.mark.parametrize("kind", [registry.methods, registry.metrics], ids=["methods", "metrics"])
def test_expected_failures_are_names_of_laws_with_reasons(kind: registry.Registry) -> None:
    known = (METHOD_LAWS if kind is registry.methods else METRIC_LAWS).names()
    cards: dict[str, Card] = kind.cards()
    wrong = [
        (n, law)
        for n, card in cards.items()
        for law, why in card.expected_failures.items()
        if law not in known or not why
    ]
    assert wrong == []
