"""The planner: chunks by a timing curve, back-off, order, counting, and rows that know only themselves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import abe
from abe.engines.runtime.chunk_size import ChunkPlan
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.work import Chunk, Work
from abe.errors import Code, InputError, ModelError
from abe.task.base import Context
from abe.testing import nets, problem_of, samples, task_of


def settle(plan: ChunkPlan, seconds: Callable[[int], float], calls: int = 200) -> int:
    """Feed the plan a timing curve until it is settled."""
    for _ in range(calls):
        if plan.settled is not None:
            return plan.settled
        plan.record(plan.size, seconds(plan.size))
    raise AssertionError("the plan does not settle")


@given(
    start=st.sampled_from([1, 2, 8, 32]),
    best=st.integers(0, 10).map(lambda e: 2**e),
    steep=st.floats(1.1, 3.0),
    rough=st.lists(st.floats(1.0, 1.01), min_size=8, max_size=8),
)
def test_the_plan_finds_the_best_chunk_of_a_timing_curve(
    start: int, best: int, steep: float, rough: list[float]
) -> None:
    """Time per row falls towards ``best`` and rises after it, with one per cent of noise on top."""

    def seconds(size: int) -> float:
        away = abs(torch.tensor(size / best).log2().item())
        return size * (1 + (steep - 1) * away) * rough[size.bit_length() % 8]

    assert settle(ChunkPlan(start=start), seconds) == best


def test_a_busy_machine_does_not_mislead_the_plan() -> None:
    """Three of four chunks of the best size take twice as long, as beside other work."""
    calls = 0

    def seconds(size: int) -> float:
        nonlocal calls
        calls += 1
        return size * {4: 1.5, 8: 1.0 if calls % 4 == 0 else 2.0}.get(size, 1.8)

    assert settle(ChunkPlan(start=8), seconds) == 8


def test_the_first_chunk_of_a_size_does_not_count() -> None:
    """It warms caches up: a slow first run of the best size does not lose it."""
    met: set[int] = set()

    def seconds(size: int) -> float:
        cold = size not in met
        met.add(size)
        return 100.0 if cold else size * (1 if size == 16 else 2)

    assert settle(ChunkPlan(start=8), seconds) == 16


def test_a_chunk_of_another_size_than_planned_does_not_count() -> None:
    plan = ChunkPlan(start=8)
    for _ in range(20):
        plan.record(3, 1e-9)
    assert plan.seen == {}
    assert plan.size == 8


def test_of_sizes_within_the_noise_the_larger_is_taken_until_a_chunk_takes_long() -> None:
    """Larger chunks are faster here, by less than anyone could measure, and each row takes 10 ms."""
    assert settle(ChunkPlan(start=8), lambda size: size * (1e-2 - 1e-5 * size.bit_length())) == 32


def test_a_settled_size_is_tried_anew_when_rows_keep_another_pace() -> None:
    """Settled beside other work, which favoured single rows; then the machine is quiet."""
    plan = ChunkPlan(start=8)
    assert settle(plan, lambda size: 0.1 * size**1.5) == 1
    for _ in range(200):
        plan.record(plan.size, 1e-3 * plan.size**0.5)
    assert plan.size > 64


def test_a_moment_of_other_work_does_not_begin_the_search_anew() -> None:
    plan = ChunkPlan(start=8)
    best = settle(plan, lambda size: 0.1 * size * abs(torch.tensor(size / 16).log2().item()) + 0.1)
    for number in range(200):
        plan.record(plan.size, (5.0 if number % 3 else 1.0) * min(plan.seen[best]) * best)
    assert plan.settled == best


@given(budget=st.integers(1, 10**9), row=st.integers(1, 10**7))
def test_a_budget_bounds_the_size(budget: int, row: int) -> None:
    plan = ChunkPlan(start=8, budget=budget, measured=False)
    assert plan.size <= 2
    plan.fit(row)
    largest = settle(plan, lambda size: 1.0)  # the larger the better
    assert largest * row <= max(budget, row)


@given(fits=st.integers(1, 300), start=st.sampled_from([1, 8, 32, 4096]))
def test_back_off_settles_on_what_fits(fits: int, start: int) -> None:
    plan, tried = ChunkPlan(start=start), 0
    while plan.settled is None:
        tried += 1
        assert tried < 200
        if plan.size > fits:
            plan.shrink(plan.size)
        else:
            plan.record(plan.size, 1.0)
    assert plan.size <= fits
    assert plan.size * 2 > fits or plan.size * 2 > plan.limit


def test_back_off_after_settling() -> None:
    plan = ChunkPlan(start=8)
    size = settle(plan, lambda size: float(size > 32) * size + 1)
    plan.shrink(size)
    assert plan.size == size // 2


# ---------------------------------------------------------------- evaluator


def gather(
    net: nn.Module, x: Tensor, n: int, kind: str = "gradient", **how: Any
) -> tuple[list[Chunk], Evaluator]:
    """n rows made of the samples in turn; what came back, in order."""
    problem = problem_of(net, x, **how)
    problem.evaluator.cost.forward_rows = problem.evaluator.cost.forward_calls = 0
    owner = torch.arange(n) % len(x)
    run = problem.gradient if kind == "gradient" else problem.forward
    chunks = list(run(lambda rows: x[owner[rows]] * (1 - rows.view(-1, 1, 1, 1) / (2 * n)), owner))
    return chunks, problem.evaluator


@pytest.mark.parametrize("kind", ["forward", "gradient"])
@pytest.mark.parametrize("chunk", [1, 3, 7, 64, None])
def test_every_row_comes_once_in_order_and_is_counted(kind: str, chunk: int | None) -> None:
    net = nets.Watched(nets.Smooth())
    chunks, evaluator = gather(net, samples(2), 23, kind, chunk=chunk)
    assert torch.cat([c.rows for c in chunks]).tolist() == list(range(23))
    assert torch.cat([c.owner for c in chunks]).tolist() == [i % 2 for i in range(23)]
    cost = evaluator.cost
    assert cost.forward_rows == net.forward_rows - 2 == 23  # two for the prediction
    assert cost.backward_rows == net.backward_rows == (23 if kind == "gradient" else 0)
    assert cost.forward_calls == len(chunks)
    assert cost.chunk is not None
    assert cost.chunk >= max(len(c.rows) for c in chunks)
    assert sum(len(c.gradients) for c in chunks) == cost.backward_rows
    assert sum(len(c.scores) for c in chunks) == 23


def test_rows_of_different_targets_keep_their_own_gradient() -> None:
    net, x, targets = nets.Linear(), samples(4), [0, 3, 1, 3]
    chunks, _ = gather(net, x, 8, target=targets, chunk=5)
    gradients = torch.cat([c.gradients for c in chunks]).flatten(1)
    expected = net.weight.detach()[torch.tensor(targets * 2)]
    torch.testing.assert_close(gradients, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("chunk", [None, 16])
def test_out_of_memory_backs_off_and_loses_no_row(limit: int, chunk: int | None) -> None:
    net, x = nets.Smooth(), samples(1)
    expected, _ = gather(net, x, 40)
    chunks, evaluator = gather(nets.Watched(net, limit=limit), x, 40, chunk=chunk)
    assert torch.cat([c.rows for c in chunks]).tolist() == list(range(40))
    assert max(len(c.rows) for c in chunks) <= limit
    assert evaluator.cost.forward_rows == evaluator.cost.backward_rows == 40
    found, wanted = (torch.cat([c.gradients for c in some]) for some in (chunks, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


class Hungry(nn.Module):
    """Fails as a CPU allocator does, whatever the number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ModelError) as refused:
        abe.explain(task_of(Hungry()), samples(2, dtype=torch.float32), "gradient", progress=False)
    assert refused.value.code is Code.OUT_OF_MEMORY


def test_the_chunk_that_fits_is_remembered_for_the_task() -> None:
    task = task_of(nets.Watched(nets.Smooth(), limit=3))
    x = samples(4)
    for attempt in range(2):
        found = abe.explain(task, x, "ig", steps=16, execution="model", progress=False)
        assert found.cost.backward_rows == 64
        assert found.cost.chunk is not None
        assert found.cost.chunk <= 3, attempt
    assert found.residual is not None


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    """Rows are made chunk by chunk: never more at once than a chunk."""
    made: list[int] = []
    x = samples(1)
    problem = problem_of(nets.Linear(), x)

    def make(rows: Tensor) -> Tensor:
        made.append(len(rows))
        return x[torch.zeros_like(rows)]

    owner = torch.zeros(3000, dtype=torch.long)
    chunks = [len(chunk.rows) for chunk in problem.gradient(make, owner)]
    assert sum(chunks) == 3000
    assert max(made) == max(chunks) <= 4096
    assert max(chunks[:3]) <= 8


def test_nothing_to_do_calls_nothing() -> None:
    net = nets.Watched(nets.Linear())
    problem = problem_of(net, samples(1))
    before = net.calls
    assert list(problem.gradient(lambda rows: 1 / 0, torch.zeros(0, dtype=torch.long))) == []
    assert net.calls == before


def test_progress_counts_forward_and_backward_rows() -> None:
    done: list[int] = []
    found = abe.explain(task_of(nets.Linear()), samples(3), "ig", steps=5, progress=done.append)
    assert sum(done) == found.cost.passes


# ---------------------------------------------------------------- refusals


class Wrong(nn.Module):
    """Returns what a function makes of the flattened input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x.flatten(1)[:, :4] * self.one)


def cut(x: Tensor) -> Tensor:
    return x.detach()


def root(x: Tensor) -> Tensor:
    return (x - x).sqrt() + x


def poisoned(x: Tensor) -> Tensor:
    return x / 0


def one_for_all(x: Tensor) -> Tensor:
    return x.mean(0)


def ignoring(x: Tensor) -> Tensor:
    return torch.zeros_like(x) + torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (cut, Code.NOT_DIFFERENTIABLE),
        (ignoring, Code.NOT_DIFFERENTIABLE),
        (root, Code.NOT_FINITE_GRADIENT),
        (poisoned, Code.NOT_FINITE_OUTPUT),
        (one_for_all, Code.OUTPUT_SHAPE),
    ],
)
def test_models_that_cannot_be_explained_are_refused(
    function: Callable[[Tensor], Tensor], code: Code
) -> None:
    with pytest.raises(ModelError) as refused:
        abe.explain(task_of(Wrong(function)), samples(3, dtype=torch.float32), "gradient", progress=False)
    assert refused.value.code is code


def batch_mean(outputs: Tensor, target: Tensor) -> Tensor:
    return outputs.mean()


def block(outputs: Tensor, target: Tensor) -> Tensor:
    return outputs[:, target]


@pytest.mark.parametrize("objective", [batch_mean, block])
def test_objectives_that_mix_rows_are_refused(objective: Callable[..., Tensor]) -> None:
    with pytest.raises(InputError) as refused:
        abe.explain(task_of(nets.Smooth()), samples(3), "gradient", objective=objective, progress=False)
    assert refused.value.code is Code.OUTPUT_SHAPE


def test_context_follows_its_sample() -> None:
    """Other inputs are taken by owner, in every chunk."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x: Tensor, gain: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * gain[:, None] * self.one

    task = task_of(Two())
    x, gain = samples(3), torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    evaluator = Evaluator(task, execution="model", chunk=2)
    owner = torch.tensor([2, 0, 1, 2, 0])
    work = Work("forward", lambda i: x[owner[i]], owner, Context({1: gain}))
    rows = [chunk.outputs for chunk in evaluator.run(work)]
    torch.testing.assert_close(torch.cat(rows).detach(), x.flatten(1)[owner, :3] * gain[owner, None])


def test_work_between_two_chunks_does_not_change_what_runs() -> None:
    """Score-CAM asks for rows of its own after every chunk, and they may run a copy."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1),
        torch.nn.BatchNorm2d(6),
        torch.nn.ReLU(),
        torch.nn.Conv2d(6, 4, 1),
    )
    task = abe.image_task(torch.nn.Sequential(net, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval())
    x = torch.rand(4, 3, 16, 16)
    for _ in range(12):  # enough rows for a copy
        abe.explain(task, x, "occlusion", units="grid", progress=False)
    for method in ("score_cam", "ablation_cam"):
        together = abe.explain(task, x, method, layer="0.2", progress=False)
        apart = abe.explain(task, x, method, layer="0.2", chunk=1, progress=False)
        assert together.attribution.any()
        torch.testing.assert_close(apart.attribution, together.attribution)
