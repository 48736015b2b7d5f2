"""Whether a model answers twice the same, which no draws of its own and nothing that it keeps must change."""

# torch leaves part of its own interface untyped:
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from abe.errors import Code, note
from abe.instrument.inspection import HOOKS, ours
from abe.instrument.model_check import moved
from abe.instrument.plain import INTERNAL
from abe.instrument.random_states import RandomStates, states_before
from abe.instrument.snapshot import Snapshot, put_back
from abe.task.base import Context, Task

SAME = 1e-6
"""Share of the largest output up to which two runs of one row are the same."""


class Watch:
    """Looks at a model before and after its first chunk; only one that has changed is run again.

    Args:
        model: the model, which is being run.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._before = model, states_before()

    def note(self, task: Task, x: Tensor, context: Context) -> list[str] | None:
        """What is to be said of the model; None where engines watch it, so that it cannot be run now.

        Args:
            task: of the model.
            x: (1, *f) a row that it has seen; it is run twice, and all is as before afterwards.
            context: of the row.
        """
        kept = moved(self._model)
        if not kept and self._before.same(RandomStates.now()):
            return []
        if _watched(self._model):
            return None
        gap = _gap(task, x, context)
        if not gap > SAME:
            return []
        why = "It keeps something from one run to the next" if kept else "It draws random numbers"
        return [
            note(
                Code.UNSTEADY_MODEL,
                f"The model does not answer twice the same: outputs of one sample differ by {gap:.1%} of the "
                f"largest. {why} in evaluation mode, so scores and maps hold for one run of it only",
            )
        ]


def _gap(task: Task, x: Tensor, context: Context) -> float:
    """How far two runs of a row differ, as a share of its largest output; 0 where that cannot be told."""
    try:
        with _aside(task.model), torch.no_grad():
            one = task.forward(x, context)
            if not isinstance(one, Tensor):
                return 0.0
            one = one.detach().clone()
            gap = (task.forward(x, context) - one).abs().max() / one.abs().max()
            return float(gap)
    except Exception:  # whatever it is, the run itself meets it again and says so
        return 0.0


def _watched(model: nn.Module) -> bool:
    """Whether an engine's hooks or function mode would see a run."""
    if torch._C._len_torch_function_stack():
        return True
    return any(
        ours(hook)
        for module in model.modules()
        for kind in HOOKS
        for hook in (vars(module).get(kind) or {}).values()
    )


@contextmanager
def _aside(model: nn.Module) -> Generator[None]:
    """Runs that leave no trace, in containers that are attributes neither."""
    states, modules = RandomStates.now(), list(model.modules())
    found = Snapshot(modules)
    attributes = [held for m in modules for name, held in vars(m).items() if name not in INTERNAL]
    filled: list[Any] = [held for held in attributes if type(held) in (list, dict, set, deque)]
    before = [copy(held) for held in filled]
    try:
        yield
    finally:
        put_back(found.differences())
        for held, was in zip(filled, before, strict=True):
            held.clear()
            (held.extend if isinstance(held, list | deque) else held.update)(was)
        states.put_back()
