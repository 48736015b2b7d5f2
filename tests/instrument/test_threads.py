"""Threads get what each gets alone: on one model, on models with parts in common, on models of their own."""

import threading
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.instrument.model_check import holding
from abe.instrument.modes import eager
from abe.testing.snapshot import Snapshot

TASKS = ("gradient", "grad_cam", "lrp_epsilon", "guided_backprop", "occlusion", "attack", "evaluate")


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))


def photo(seed: int) -> Tensor:
    return torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def answer(model: nn.Module, what: str, seed: int) -> Tensor:
    task, how = abe.image_task(model), {"ids": [0], "progress": False}
    if what == "attack":
        return abe.attack(task, photo(seed), "pgd", steps=3, **how).x_adv
    if what == "evaluate":
        found = abe.evaluate(task, {"g": "gradient"}, ["insertion"], data=photo(seed), **how)
        return found.scores["g"]["insertion"].values
    return abe.explain(task, photo(seed), what, target=1, **how).attribution


def together(work: list[Callable[[], Any]]) -> list[Any]:
    """What functions return that start at the same time in a thread each."""
    found: list[Any] = [None] * len(work)
    barrier = threading.Barrier(len(work))

    def start(number: int) -> None:
        barrier.wait()
        try:
            found[number] = work[number]()
        except Exception as problem:
            found[number] = problem

    threads = [threading.Thread(target=start, args=(number,), daemon=True) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for one in found:
        if isinstance(one, Exception):
            raise one
    return found


def shared(kind: str, count: int) -> list[nn.Module]:
    """Models for threads: one for all, wrapped for each, one backbone or weight in all, or their own."""
    if kind == "one":
        return [net()] * count
    if kind == "own":
        return [net(seed) for seed in range(count)]
    if kind == "tied":
        models = [net(seed) for seed in range(count)]
        for model in models:
            model[0].weight = models[0][0].weight
        return models
    backbone = net()
    if kind == "wrapped":
        return [nn.Sequential(backbone) for _ in range(count)]
    return [nn.Sequential(*backbone[:-1], net(seed)[-1]) for seed in range(count)]


def alike(models: list[nn.Module], jobs: list[tuple[str, int]], times: int) -> None:
    """Every thread gets ``times`` times what its job gives alone, and the models are as before."""
    alone = [answer(deepcopy(model), *job) for model, job in zip(models, jobs, strict=True)]
    for model in models:
        model.train()
    before = [Snapshot(model) for model in models]

    def again(model: nn.Module, job: tuple[str, int]) -> list[Tensor]:
        return [answer(model, *job) for _ in range(times)]

    work = [lambda m=model, j=job: again(m, j) for model, job in zip(models, jobs, strict=True)]
    for given, right in zip(together(work), alone, strict=True):
        for one in given:
            torch.testing.assert_close(one, right, rtol=1e-4, atol=1e-6)
    assert [snapshot.changes() for snapshot in before] == [[]] * len(models)
    assert not any(module._forward_hooks for model in models for module in model.modules())


@pytest.mark.parametrize("kind", ["one", "wrapped", "backbone", "tied", "own"])
def test_everything_at_once(kind: str):
    alike(shared(kind, len(TASKS)), [(what, seed) for seed, what in enumerate(TASKS)], 2)


def test_four_threads_of_fifty_calls():
    alike(shared("one", 4), [("gradient", 0), ("grad_cam", 1), ("gradient", 2), ("grad_cam", 3)], 50)


@pytest.mark.slow
def test_two_hundred_threads():
    alike(shared("one", 200), [(TASKS[seed % 5], seed) for seed in range(200)], 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wrapped", "backbone", "tied", "own"])
def test_four_threads_of_fifty_calls_on_models_with_parts_in_common(kind: str):
    alike(shared(kind, 4), [("gradient", 0), ("grad_cam", 1), ("lrp_epsilon", 2), ("occlusion", 3)], 50)


def test_models_that_are_put_together_later_take_turns_with_both():
    one, two = net(0), net(1)
    for model in (one, two):
        answer(model, "gradient", 0)
    both = nn.ModuleList([one, two])
    inside, tried = threading.Event(), threading.Event()
    order: list[str] = []

    def outer() -> None:
        with holding(both):
            inside.set()
            tried.wait(10)
            order.append("both")

    def inner(model: nn.Module) -> None:
        inside.wait(10)
        tried.set()
        with holding(model):
            order.append("one")

    together([outer, lambda: inner(one), lambda: inner(two)])
    assert order == ["both", "one", "one"]


def test_random_states_are_restored_by_the_last_one_out():
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(108, 3)

        def forward(self, x: Tensor) -> Tensor:
            torch.rand(7)
            return self.inner(x.flatten(1))

    models = [Drawing().eval() for _ in range(2)]
    before = torch.get_rng_state()
    together([lambda m=model: [answer(m, "gradient", 0) for _ in range(20)] for model in models])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_compiler_s_stance_ends_with_the_last_one():
    import torch._dynamo.eval_frame as frame

    before = frame._stance.stance
    one, two = eager(net()), eager(net())
    one.__enter__()
    two.__enter__()
    assert frame._stance.stance == "force_eager"
    one.__exit__(None, None, None)
    assert frame._stance.stance == "force_eager"
    two.__exit__(None, None, None)
    assert frame._stance.stance == before
