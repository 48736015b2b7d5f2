"""Which tensors are functions, entry by entry, of one tensor, however many operations they are written in.

GPT-2 writes its GELU in nine operations, ½ x · (1 + tanh(…x…)). A product of two functions of the value x is
a function of x, as `torch.nn.functional.gelu` is, and no product of two things that share the relevance.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from abe.engines.backward.step import Step, names

IDENTITIES = names(
    """relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardtanh hardshrink softshrink
    tanhshrink softsign softplus logsigmoid tanh threshold clamp clamp_min clamp_max expm1 log1p sqrt square
    abs sin tan sinh atan asin erf pow nan_to_num"""
)
"""Element-wise functions through which relevance passes unchanged: c_in = c f(x) / x."""
_STRAIGHT = names("add sub rsub mul div neg to float double half bfloat16 contiguous clone dropout")
"""Operations that are element-wise where what else they read is a constant, and bend nothing."""


@dataclass(frozen=True)
class Function:
    """How a tensor came from ``root``.

    Attributes:
        root: the tensor that it is a function of.
        versions: how often the root and the tensor itself had been written to.
        step: the last operation.
        bent: whether one of the operations is an activation.
    """

    root: Tensor
    versions: tuple[int, int]
    step: Step
    bent: bool


class OneValue:
    """Follows functions of one value through a pass."""

    def __init__(self) -> None:
        self._known: Any = WeakIdKeyDictionary()

    def of(self, tensor: Tensor) -> Function | None:
        """How a tensor came about, where it and what it came from are still what they were."""
        found: Function | None = self._known.get(tensor)
        return found if found is None or found.versions == _versions(found.root, tensor) else None

    def root(self, step: Step) -> Tensor | None:
        """The one tensor whose values, entry by entry, all that a step reads of the input is made of."""
        inputs = step.inputs()
        sources = (t if (found := self.of(t)) is None else found.root for t in inputs)
        roots = {id(t): t for t in sources}
        if len(roots) != 1:
            return None
        (root,) = roots.values()
        return root if all(t.shape == root.shape for t in inputs) else None

    def bent(self, tensor: Tensor) -> bool:
        """Whether a tensor came out of an activation."""
        found = self.of(tensor)
        return found is not None and found.bent

    def follow(self, step: Step, output: Any) -> None:
        """Note what a step gave."""
        if step.seen.in_place or step.name not in IDENTITIES | _STRAIGHT:
            return
        inputs = step.inputs()
        if not isinstance(output, Tensor) or not output.requires_grad or any(t is output for t in inputs):
            return
        root = self.root(step)
        if root is not None and output.shape == root.shape:
            bent = step.name in IDENTITIES or any(self.bent(t) for t in inputs)
            self._known[output] = Function(root, _versions(root, output), step, bent)

    def again(self, step: Step, root: Tensor, value: Tensor) -> Any:
        """What a step gives at another value of its root."""
        at: dict[int, Any] = {id(root): value}

        def run(tensor: Tensor) -> Any:
            found = self.of(tensor)
            if id(tensor) not in at and found is not None:
                at[id(tensor)] = found.step.with_(run)
            return at.get(id(tensor), tensor)

        return step.with_(run)


def _versions(root: Tensor, tensor: Tensor) -> tuple[int, int]:
    return root._version, tensor._version


__all__ = ["IDENTITIES", "Function", "OneValue"]
