"""Values, tasks and results go to other processes and are copied, and come back equal."""

import copy
import multiprocessing
import pickle
from typing import Any

import pytest
import torch

import abe
from abe import registry
from abe.draws import SeededDraws
from abe.metrics.evaluation.base import as_metric
from abe.registry import Frozen, freeze
from abe.testing import nets, samples, task_of

WAYS = {
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),  # noqa: S301 - of a moment ago
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
KINDS = {
    "objective": registry.objectives,
    "baseline": registry.baselines,
    "unit": registry.units,
    "path": registry.paths,
    "update": registry.updates,
    "rule": registry.rules,
    "channel weight": registry.channel_weights,
    "removal": registry.removals,
    "summary": registry.summaries,
}


def given(entry: registry.Entry) -> dict[str, Any]:
    return dict(entry.card.example) if entry.required() else {}


@pytest.mark.parametrize("way", WAYS)
def test_every_method_comes_back(way):
    for entry in registry.methods.entries():
        made = abe.method(entry.name, **given(entry))
        back = WAYS[way](made)
        assert back.describe() == made.describe(), entry.name
        assert type(back.engine) is type(made.engine), entry.name
        if "opaque" not in str(made.describe()):  # a tensor, which is no value
            assert back == made, entry.name
            assert hash(back) == hash(made), entry.name


@pytest.mark.parametrize("way", WAYS)
def test_every_metric_comes_back(way):
    for entry in registry.metrics.entries():
        made = as_metric((entry.name, given(entry)))
        back = WAYS[way](made)
        assert back.describe() == made.describe(), entry.name
        assert type(back.value) is type(made.value), entry.name
        assert "opaque" in str(made.describe()) or back == made, entry.name


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_comes_back(kind):
    for entry in KINDS[kind].entries():
        if set(entry.required()) <= set(entry.card.example):
            made = KINDS[kind].make(entry.name, **given(entry))
            for way in WAYS.values():
                assert way(made) == made, entry.name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inner", [{}, {"a": 1}, {"a": {"b": [1, {"c": 2}]}, "d": (1, 2)}])
def test_frozen_parameters_stay_frozen(way, inner):
    made = freeze(inner)
    back = WAYS[way](made)
    assert type(back) is Frozen
    assert back == made
    assert hash(back) == hash(made)
    for change in (lambda: back.update(a=2), lambda: back.__setitem__("a", 2), lambda: back.clear()):
        with pytest.raises(TypeError, match="frozen"):
            change()


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_tasks_and_results_come_back(way):
    task, x = task_of(nets.Convolutional().eval()), samples(2, dtype=torch.float32)
    copied = WAYS[way](task)
    found = abe.explain(copied, x, "ig", steps=4, progress=False)
    assert torch.equal(found.attribution, abe.explain(task, x, "ig", steps=4, progress=False).attribution)
    _ = found.residual  # kept where it was computed
    back = WAYS[way](found)
    assert torch.equal(back.attribution, found.attribution)
    assert list(back.ids) == list(found.ids)
    assert back.names == found.names
    attacked = abe.attack(task, x, "fgsm", progress=False)
    assert torch.equal(WAYS[way](attacked).x_adv, attacked.x_adv)
    compared = abe.evaluate(task, {"ig": found}, ["insertion"], data=x, progress=False)
    assert WAYS[way](compared).to_dict() == compared.to_dict()
    assert WAYS[way](SeededDraws(seed=3)) == SeededDraws(seed=3)


def test_errors_come_back():
    """A pool hands them from its workers to its owner."""
    with pytest.raises(abe.AbeError) as caught:
        abe.method("igg")
    back = WAYS["pickle"](caught.value)
    assert type(back) is type(caught.value)
    assert str(back) == str(caught.value)
    assert back.code is caught.value.code
    assert str(copy.deepcopy(caught.value)) == str(caught.value)


def explained(job: tuple[Any, Any, torch.Tensor]) -> Any:
    task, method, x = job
    return abe.explain(task, x, method, progress=False)


def test_a_pool_of_new_processes_explains():
    """As on Windows and macOS: nothing is shared, everything is pickled."""
    task, x = task_of(nets.Convolutional().eval()), samples(2, dtype=torch.float32)
    jobs = [
        (task, abe.method(name, **how), x)
        for name, how in (("lime", {"evaluations": 40}), ("ig", {"steps": 4}))
    ]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(explained, jobs)
    for job, one in zip(jobs, found, strict=True):
        torch.testing.assert_close(one.attribution, explained(job).attribution, rtol=1e-3, atol=1e-5)
