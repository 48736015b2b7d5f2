"""Every method, metric and attack at the ends that its checks let through: an answer or a coded error."""

from typing import Any, get_args

import pytest
import torch

import abe
from abe import registry
from abe.errors import AbeError
from abe.metrics.evaluation.compare import score
from abe.testing import samples, task_of
from abe.testing.methods import SOME, method_case

INTEGERS = (0, 1, 2, 10**7)
REALS = (0.0, 1e-300, 1e-30, 1.0, 1e30, 1e300)
ROWS = frozenset(
    {"steps", "samples", "evaluations", "max_steps", "rounds", "search_steps", "layer_steps", "prior_steps"}
    | {"copies", "points", "neighbours", "groups", "segment_nodes", "margin"}
)
"""What takes as many passes through the model as it says: any number is right, and a large one takes long."""
QUICK = frozenset(
    {("rise", "cells"), ("lime", "width"), ("baylime", "width"), ("grid", "n"), ("patch", "size")}
)
"""What used to end in errors of NumPy or PyTorch."""


def kinds_of(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    return [kind for one in inner for kind in kinds_of(one)] if inner else [annotation]


def ends(kind: str) -> list[Any]:
    """(name, parameter, ends) of everything numeric of a kind."""
    found = []
    for entry in getattr(registry, kind).entries():
        if set(entry.required()) - set(entry.own.example):
            continue
        for name, parameter in entry.parameters().items():
            kinds = kinds_of(parameter.annotation)
            values = (INTEGERS if int in kinds else ()) + (REALS if float in kinds else ())
            values = tuple(v for v in values if v != 10**7 or name not in ROWS)
            if values:
                slow = [] if (entry.name, name) in QUICK else [pytest.mark.slow]
                found.append(pytest.param(entry.name, name, values, id=f"{entry.name}-{name}", marks=slow))
    return found


def settles(call: Any) -> None:
    """The call gives finite numbers, or refuses in words."""
    try:
        found = call()
    except AbeError:
        return
    assert bool(found.isfinite().all())


@pytest.mark.parametrize(("name", "parameter", "values"), ends("methods"))
def test_methods(name, parameter, values):
    x = samples(2, dtype=torch.float32)
    for value in values:

        def explained(value: Any = value) -> torch.Tensor:
            usual = {**method_case(name).coarser().params, parameter: value}
            if parameter != "evaluations" and isinstance(usual.get("evaluations"), int):
                usual["evaluations"] = min(usual["evaluations"], SOME)
            case = method_case(name, **usual)
            how = {"target": 1, "progress": False, "execution": "model"}
            return abe.explain(task_of(case.net(torch.float32)), x, case.method, **how).attribution

        settles(explained)


@pytest.mark.parametrize(("name", "parameter", "values"), ends("metrics"))
def test_metrics(name, parameter, values):
    task, x = task_of(method_case("ig").net(torch.float32)), samples(3, dtype=torch.float32)
    made = abe.explain(task, x, "gradient", target=1, progress=False)
    entry = registry.metrics.get(name)
    usual = {"samples": 4} if "samples" in entry.parameters() else {}
    usual |= entry.card.example
    truth = {"labels": torch.arange(3) % 2, "masks": torch.eye(x.shape[-1]).bool().expand(3, -1, -1)}
    for value in values:
        asked = (name, {**usual, parameter: value})
        settles(lambda asked=asked: score(made, task, metric=asked, **truth).values.nan_to_num())


@pytest.mark.parametrize(("name", "parameter", "values"), ends("updates"))
def test_attacks(name, parameter, values):
    task, x = task_of(method_case("ig").net(torch.float32)), samples(2, dtype=torch.float32)
    few = {n: 4 for n in ("copies", "points", "neighbours") if n in registry.updates.get(name).parameters()}
    for value in values:
        how = {"steps": 2, **few, parameter: value, "progress": False, "execution": "model"}
        settles(lambda how=how: abe.attack(task, x, name, **how).x_adv)


@pytest.mark.parametrize(
    ("name", "parameter", "values"), [*ends("units"), *ends("baselines"), *ends("summaries")]
)
def test_parts(name, parameter, values):
    task, x = task_of(method_case("ig").net(torch.float32)), samples(2, dtype=torch.float32)
    for value in values:
        for kind in ("units", "baselines", "summaries"):
            if name not in getattr(registry, kind).names():
                continue
            part = (name, {**getattr(registry, kind).get(name).own.example, parameter: value})
            method, asked = {
                "units": ("occlusion", {"units": part}),
                "baselines": ("ig", {"baseline": part, "steps": 3}),
                "summaries": ("removal", {"summary": part, "units": ("grid", {"n": 2}), "evaluations": 40}),
            }[kind]
            how = {"target": 1, "progress": False, "execution": "model"}
            settles(
                lambda method=method, how={**asked, **how}: abe.explain(task, x, method, **how).attribution
            )
            if kind == "units":
                made = abe.explain(task, x, "gradient", target=1, progress=False)
                curve = ("insertion", {"unit": part, "step": 0.5})
                settles(lambda curve=curve, made=made: score(made, task, metric=curve).values)


def test_one_cell_of_rise_is_one_number_everywhere():
    x = samples(2, dtype=torch.float32)
    made = abe.explain(
        task_of(method_case("rise").net(torch.float32)), x, "rise", cells=1, evaluations=20, progress=False
    )
    assert torch.equal(made.attribution, made.attribution[:, :1, :1, :1].expand_as(made.attribution))
    assert bool(made.attribution.isfinite().all())
