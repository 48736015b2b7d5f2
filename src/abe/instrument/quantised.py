"""Refusals of what quantised modules cannot give say which modules these are."""

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn

from abe.errors import Code, ModelError
from abe.instrument.inspection import clean_name, path_name, quantised

_WANTS_SLOPES = frozenset({Code.NOT_DIFFERENTIABLE, Code.RULE, Code.HIDDEN_BACKWARD, Code.NO_SPATIAL_LAYER})


@contextmanager
def naming_quantised(model: nn.Module) -> Generator[None]:
    """Let what is refused inside the ``with`` block, for want of slopes or of layers, name quantised modules.

    Raises:
        ModelError: the one raised inside, with the names if there are any.
    """
    try:
        yield
    except ModelError as problem:
        names = quantised(model) if problem.code in _WANTS_SLOPES else []
        if not names:
            raise
        raise ModelError(
            problem.code,
            problem.what,
            got="; ".join(filter(None, [problem.got and str(problem.got), said(model, names)])),
            expected=problem.expected,
            fix="Explain the model as it was before it was quantised, or use a removal method at the input",
        ) from problem


def said(model: nn.Module, names: list[str]) -> str:
    """The first quantised module with its kind, and how many more there are."""
    kind = type(model.get_submodule(names[0])).__name__
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{path_name(clean_name(names[0]))} ({kind}){more} quantised"
