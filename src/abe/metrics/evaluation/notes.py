"""What is said of a metric beside its numbers: that it raised, has none, or says nothing."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from abe.engines.runtime.work import out_of_memory
from abe.errors import AbeError, Code, SpecError, note

NAMED = 5
"""Samples that a note names."""


@contextmanager
def blamed(metric: str) -> Generator[None]:
    """Say of an exception that it was the metric's; memory that ran out and errors of ABE pass as they are.

    Raises:
        SpecError: the metric raised something else.
    """
    try:
        yield
    except AbeError:
        raise
    except Exception as problem:
        if isinstance(problem, MemoryError) or out_of_memory(problem):
            raise
        raise SpecError(
            Code.METRIC,
            f"The metric {metric!r} raised an exception",
            got=f"{type(problem).__name__}: {problem}",
            expected="one number per sample",
            fix="Look at the exception that this one came from",
        ) from problem


def without_number(metric: str, values: Tensor, why: str) -> list[str]:
    """A note about samples without a number, from metrics that say why there is none."""
    samples = values.isnan().nonzero().flatten().tolist()
    if not samples or not why:
        return []
    return [note(Code.NO_NUMBER, f"{metric} has no number for sample {_who(samples)}: {why}")]


def no_reaction(metric: str, samples: Sequence[int]) -> list[str]:
    """A note about samples whose number every map would get."""
    if not samples:
        return []
    text = f"{metric} says nothing of sample {_who(samples)}: removal does not change what it reads"
    return [note(Code.NO_REACTION, f"{text}, whatever the map")]


def unsteady(warnings: Sequence[str]) -> list[str]:
    """The notes that a model does not answer twice the same."""
    return [one for one in warnings if Code.UNSTEADY_MODEL in one]


def asked(metrics: Sequence[Any], lot: Any) -> list[str]:
    """A note that localisation is measured in what is explained, where nobody gave masks."""
    located = lot.asked and any(one.card is not None and "mask" in one.card.needs for one in metrics)
    text = "No masks are given, so localisation is measured in the explained box"
    return [note(Code.ASKED_REGION, text)] if located else []


def _who(samples: Sequence[int]) -> str:
    return ", ".join(map(str, samples[:NAMED])) + (" …" if len(samples) > NAMED else "")
