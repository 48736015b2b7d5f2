"""What hides a model's operations from around them: function transforms (`torch.func`) and checkpoints."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from abe.errors import Code, ModelError

_PEEK: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]
_AUTOGRAD: Any = torch._C._autograd  # pyright: ignore[reportAttributeAccessIssue]
_TOP_HOOKS: Callable[[bool], Any] | None = getattr(_AUTOGRAD, "_top_saved_tensors_default_hooks", None)
"""Not in torch 2.6, where a checkpoint is told by its frame."""
_CHECKPOINT = inspect.unwrap(checkpoint).__code__


def transform() -> str | None:
    """Name of the innermost function transform that is running ("vmap", "grad", "jvp", …); None outside."""
    running = _PEEK()
    return None if running is None else str(running.key()).rpartition(".")[2].lower()


def hidden(code: Code, what: str, running: str, around: str) -> ModelError:
    """The error of what is asked for inside a function transform.

    Args:
        code: of what cannot be done.
        what: a sentence that says it.
        running: which transform.
        around: what it runs around.
    """
    return ModelError(
        code,
        what,
        got=f"{running} (torch.func) around {around}",
        fix="Write what it does out in plain operations, or use a gradient or removal method at the input",
    )


def refuse_layer_inside(layer: str) -> None:
    """Raise LAYER where a layer runs inside a function transform: what it gives there is no layer's output.

    Args:
        layer: its name.
    """
    running = transform()
    if running is not None:
        what = f"A layer's output can be neither read nor replaced inside a function transform: {layer!r}"
        raise hidden(Code.LAYER, what, running, "the layer")


def in_checkpoint() -> bool:
    """Whether operations run in a checkpoint, which runs them once more on the way back."""
    if _TOP_HOOKS is not None:
        hooks = _TOP_HOOKS(False)
        return hooks is not None and "checkpoint" in getattr(hooks[0], "__module__", "")
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not _CHECKPOINT:
        frame = frame.f_back
    return frame is not None
