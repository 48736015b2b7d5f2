"""What backward rules are made of: same value, another gradient; per-row ledgers; dependence on the input.

A rule lets an operation keep its value and changes what flows back through it. Everything is expressed
as a *surrogate*, an ordinary tensor with a graph whose gradient replaces the operation's own, and a
*transform* of the arriving gradient where the rule is not linear in it.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUntypedFunctionDecorator=false

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from abe.engines.backward.boxes import Boxes
from abe.errors import Code, ModelError
from abe.instrument.inspection import path_name
from abe.instrument.modes import Function, Seen
from abe.instrument.operations import SHAPE_ONLY, Kind, factors, kind_of, tensors
from abe.instrument.transforms import hidden, in_checkpoint, transform

Transform = Callable[[Tensor], Tensor]

TINY = {torch.float64: 1e-30, torch.float32: 1e-20, torch.float16: 1e-6, torch.bfloat16: 1e-20}
"""Below this a denominator counts as zero."""


CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Share of |x| + |x′| below which Δx is rounding, and the gradient stands for the ratio."""


def names(text: str) -> frozenset[str]:
    """A set of operations from their names in a text."""
    return frozenset(text.split())


class _SameValue(torch.autograd.Function):
    """The given value; the gradient of the surrogate, after the transform."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, held: Tensor, transform: Transform | None) -> Tensor:
        ctx.transform = transform
        return held.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient if ctx.transform is None else ctx.transform(gradient), None, None


def same_value(
    surrogate: Float[Tensor, "*s"], held: Float[Tensor, "*s"], transform: Transform | None = None
) -> Float[Tensor, "*s"]:
    """``held`` with the gradient of ``surrogate``, which sees ``transform(arriving gradient)``."""
    return _SameValue.apply(surrogate, held, transform)  # pyright: ignore[reportReturnType]


def transformed(output: Float[Tensor, "*s"], transform: Transform) -> Float[Tensor, "*s"]:
    """``output`` whose own gradient sees ``transform(arriving gradient)``."""
    return same_value(output, output, transform)


def depends(tensor: Any) -> bool:
    """Whether a tensor depends on the input: parameters require no gradient while rules run."""
    return isinstance(tensor, Tensor) and tensor.requires_grad


def stabilised(z: Float[Tensor, "*s"], epsilon: float) -> Float[Tensor, "*s"]:
    """z + ε sign(z) with sign(0) = 1, and never exactly zero."""
    epsilon = max(epsilon, TINY.get(z.dtype, 1e-20))
    return z + torch.where(z >= 0, epsilon, -epsilon)


def close(x: Tensor, other: Tensor) -> Tensor:
    """Where two values differ by rounding at most."""
    return (x - other).abs() <= CLOSE.get(x.dtype, 1e-2) * (x.abs() + other.abs())


def origin(tensor: Tensor) -> tuple[Any, int]:
    """What made a tensor's value. The instrument clones what an in-place call reads and copies back."""
    node, number = tensor.grad_fn, tensor.output_nr
    while node is not None and type(node).__name__ in ("CloneBackward0", "CopyBackwards"):
        node, number = node.next_functions[-1]
    return getattr(node, "variable", tensor if node is None else node), number


def _same(one: tuple[Any, int], other: tuple[Any, int]) -> bool:
    return one[0] is other[0] and one[1] == other[1]


def coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """Whichever of two precisions rounds more."""
    return one if one is other or torch.finfo(one).eps >= torch.finfo(other).eps else other


ACCOUNTS = ("bias", "stabiliser", "rest")
"""Who takes relevance that is not passed on: biases and other constants, stabilisers, and what a rule has no
input to give to (an output of value zero, a function's value at zero)."""


def sums_of(rows: Tensor) -> Tensor:
    """(n,) zeros to add up what belongs to ``rows``, in float32 at least."""
    return rows.new_zeros(len(rows), dtype=torch.promote_types(rows.dtype, torch.float32))


@dataclass
class Ledger:
    """Relevance that rules absorbed on the way back, by account and row.

    Every amount comes from the formula of the rule that books it, never from what is left over, so that
    Σ R_input + Σ accounts = Σ R_start says something about the rules.

    Attributes:
        rows: how many rows the chunk has.
        taken: (n,) by account.
    """

    rows: int
    taken: dict[str, Tensor]

    @classmethod
    def empty(cls, like: Tensor) -> "Ledger":
        """Nothing taken yet from the rows of ``like``; sums are float32 at least."""
        return cls(len(like), {account: sums_of(like) for account in ACCOUNTS})

    def take(self, account: str, seen: Seen, amount: Tensor) -> None:
        """Add ``amount``, shaped like the output of ``seen``, to an account."""
        taken = self.taken[account]
        self.taken[account] = taken + self._per_row(seen, amount.detach().to(taken.dtype))

    def _per_row(self, seen: Seen, amount: Tensor) -> Tensor:
        n = self.rows
        if n == 1:
            return amount.sum()[None]
        if "multi_head_attention_forward" in seen.within and amount.ndim in (2, 3) and _sequence_first(seen):
            # Inside it tensors are (t, n, d), and (t * n, d) before the last projection.
            return amount.reshape(-1, n, amount.shape[-1]).sum((0, 2))
        if amount.shape[0] % n == 0:
            return amount.reshape(n, -1).sum(1)
        axes = [axis for axis, size in enumerate(amount.shape) if size == n]
        if axes:
            return amount.movedim(axes[0], 0).reshape(n, -1).sum(1)
        return amount.sum().expand(n) / n


def _sequence_first(seen: Seen) -> bool:
    return seen.name in ("linear", "addmm", "add")


@dataclass
class Step:
    """One operation that depends on the input, about to run under a rule.

    Attributes:
        seen: what the instrument says of it.
        func, args, kwargs: the call.
        kind: what kind of operation it is, given which arguments depend on the input.
        number: how many weighted operations (convolution, dense) came before it.
        session: of the chunk.
        place: how many different weights came before its own; the steps of a recurrent layer share theirs.
    """

    seen: Seen
    func: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    kind: Kind
    number: int
    session: "Session"
    place: int = 0

    @property
    def name(self) -> str:
        """Canonical name."""
        return self.seen.name

    def plain(self) -> Any:
        """The operation as it is, with its own gradient."""
        return self.func(*self.args, **self.kwargs)

    def value(self) -> Any:
        """The operation's value alone."""
        with torch.no_grad():
            return self.plain()

    def inputs(self) -> list[Tensor]:
        """Tensor arguments that depend on the input."""
        return [t for t in tensors((self.args, self.kwargs)) if depends(t)]

    def with_(self, replace: Callable[[Tensor], Any]) -> Any:
        """The operation with ``replace(t)`` for every argument tensor t."""
        return self.func(*_map(self.args, replace), **_map(self.kwargs, replace))

    def replaced(self, new: dict[int, Tensor]) -> Any:
        """The operation with some of its argument tensors, told by their number, replaced."""
        counter = iter(range(1_000_000))
        return self.with_(lambda t: new.get(next(counter), t))

    def factors(self) -> list[int]:
        """Numbers of a product's factors that depend on the input."""
        given = list(tensors((self.args, self.kwargs)))
        return [i for i in factors(self.name, len(given)) if depends(given[i])]

    def root(self) -> Tensor | None:
        """The one tensor that this step computes a function of, entry by entry, where that is followed."""
        return None if self.session.values is None else self.session.values.root(self)

    def booked(self, **shares: Tensor | float) -> Transform:
        """A transform that lets the gradient through and books gradient × share for each account."""
        ledger, seen = self.session.ledger, self.seen
        kept = {account: share for account, share in shares.items() if isinstance(share, Tensor)}

        def book(gradient: Tensor) -> Tensor:
            if ledger is not None:
                for account, share in kept.items():
                    ledger.take(account, seen, gradient * share)
            return gradient

        return book

    def error(self, what: str, fix: str) -> ModelError:
        """A RULE error that names the operation and where it is."""
        return ModelError(Code.RULE, what, got=where(self.name, self.seen.module), fix=fix)


def argument(step: Step, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, given by position or by name."""
    return step.args[position] if len(step.args) > position else step.kwargs.get(name, default)


def grouped(step: Step) -> tuple[int, Tensor | None, Tensor | None, float]:
    """Groups, weight, bias and ε of a group norm; an instance norm has one channel per group."""
    if step.name == "group_norm":
        return (
            step.args[1],
            argument(step, 2, "weight"),
            argument(step, 3, "bias"),
            argument(step, 4, "eps", 1e-5),
        )
    weight, bias = argument(step, 3, "weight"), argument(step, 4, "bias")
    return step.args[0].shape[1], weight, bias, argument(step, 7, "eps", 1e-5)


def where(name: str, module: str | None) -> str:
    """An operation and its place, for a message."""
    place = "the task" if module is None else f"module {module!r}" if module else "the model's own forward"
    return f"{name!r} in {place}"


def _map(value: Any, replace: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return replace(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_map(item, replace) for item in value)
    if isinstance(value, dict):
        return {key: _map(item, replace) for key, item in value.items()}
    return value


WEIGHTED = frozenset(
    {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
    | {"linear", "addmm", "mm", "matmul", "bmm", "mv", "einsum", "tensordot"}
)
"""Operations that count as layers when their other operand is a weight."""
CONVOLUTIONS = frozenset(name for name in WEIGHTED if name.startswith("conv"))
COMPARISONS = frozenset({"gt", "ge", "lt", "le"})
MASK_CASTS = frozenset({"float", "double", "half", "to", "type_as", "bfloat16", "bitwise_not", "logical_not"})
_LIKE = frozenset({"to", "type_as", "expand_as", "view_as", "reshape_as"})
"""Of what they read beside their first argument only shape or type counts."""

Choose = Callable[[Step], Any]
Form = Literal["gradient", "ratio", "relevance", "multiplier"]
"""What is passed back: gradients, c = R / value, R itself, or DeepLIFT's multipliers."""


@dataclass
class Session:
    """Offers every operation of one chunk to the rules; the default rule of an instrument.

    Attributes:
        choose: runs a step under its rule and returns the output.
        ledger: books absorbed relevance, where the rules do.
        bounds: (low, high) of the model's own input, where a rule needs them.
        boxes: bounds of what was made of the input so far.
        form: what the rules pass back.
        found: (operation, module, rule) -> calls.
        inside: whether what is explained is a layer's activation: weighted operations before it are counted
            too, so that a place in the model keeps its number.
        layers: weighted operations so far.
        weights: the number of every weight that was met, by where it lies.
        readers: operations that read, beside the input, what was made of it without a gradient (masks,
            indices, detached tensors), in the order in which they ran.
        stopped: the last operation whose numbers do not depend on the input, though what it read did.
        values: follows functions of one value, where the rules tell them from products.
        precision: the coarsest in which a step computed, which a model can choose for a part of itself.
    """

    choose: Choose
    ledger: Ledger | None = None
    bounds: tuple[Tensor, Tensor] | None = None
    boxes: Boxes = field(default_factory=Boxes)
    form: Form = "ratio"
    found: dict[tuple[str, str | None, str], int] = field(default_factory=dict)
    inside: bool = False
    layers: int = 0
    weights: dict[Hashable, int] = field(default_factory=dict[Hashable, int])
    memory: dict[int, Any] = field(default_factory=dict)
    readers: dict[str, None] = field(default_factory=dict)
    stopped: str | None = None
    precision: torch.dtype = torch.float64
    values: Any = None
    _masks: dict[int, tuple[Tensor, tuple[Any, int]]] = field(default_factory=dict)
    _cut: dict[int, Tensor] = field(default_factory=dict)
    _fixed: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, seen: Seen, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _refuse_transform(seen)
        given = list(tensors(args[:1] if seen.name in _LIKE else (args, kwargs)))
        if not any(depends(t) for t in given):
            output = func(*args, **kwargs)
            self._follow_mask(seen, args, output)
            if self._reads_cut(given):
                self._note_cut(seen, output)
            if self.inside:
                self._count_before(seen.name, given, output)
            return self._of_constants(seen, args, output)
        if seen.name in COMPARISONS:
            return self._compare(func, args, kwargs)
        _refuse_checkpoint()
        if self._reads_cut(given):
            self.readers[where(seen.name, seen.module)] = None
        kind = kind_of(seen.name, tuple(depends(t) for t in given))
        weighted = kind == "linear" and seen.name in WEIGHTED
        place = self._place([t for t in given if not depends(t)]) if weighted else len(self.weights)
        step = Step(seen, func, args, kwargs, kind, self.layers, self, place)
        self.layers += weighted
        output = self.choose(step)
        if self.values is not None:
            self.values.follow(step, output)
        if self.boxes.limits is not None:
            self.boxes.follow(step, output)
        if isinstance(output, Tensor) and output.is_floating_point():
            self.precision = coarser(self.precision, output.dtype)
            if not depends(output):
                self.stopped = where(seen.name, seen.module)
        self._note_cut(seen, output)
        return output

    def _of_constants(self, seen: Seen, args: tuple[Any, ...], output: Any) -> Any:
        """What an operation on constants gives on."""
        return output

    def _reads_cut(self, given: list[Tensor]) -> bool:
        return bool(self._cut) and any(id(t) in self._cut for t in given)

    def _note_cut(self, seen: Seen, output: Any) -> None:
        """Follow what was made of the input and has no gradient; on a number Python may branch."""
        if seen.name in SHAPE_ONLY or output is None:
            return
        found = list(tensors(output))
        self._cut |= {id(t): t for t in found if not depends(t)}
        if not found and seen.module is not None:
            self.readers[where(seen.name, seen.module)] = None

    def note(self, step: Step, rule: str) -> None:
        """Count a step under the rule it got."""
        key = (step.name, step.seen.module, rule)
        self.found[key] = self.found.get(key, 0) + 1

    def mask_of(self, step: Step) -> Tensor | None:
        """For x * (x > c): the tensor x, where the mask was made by comparing that very value."""
        if not self._masks:
            return None
        for tensor in tensors((step.args, step.kwargs)):
            if (known := self._masks.get(id(tensor))) is not None:
                for mine in step.inputs():
                    if mine.shape == tensor.shape and _same(origin(mine), known[1]):
                        return mine
        return None

    def _compare(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask = func(*args, **kwargs)
        sources = [t for t in tensors((args, kwargs)) if depends(t)]
        if isinstance(mask, Tensor):
            self._cut[id(mask)] = mask
            if len(sources) == 1:
                self._masks[id(mask)] = (mask, origin(sources[0]))
        return mask

    def _count_before(self, name: str, given: list[Tensor], output: Any) -> None:
        """Count an operation before the layer, where all but parameters and what is made of them varies."""
        varies = tuple(not isinstance(t, torch.nn.Parameter) and id(t) not in self._fixed for t in given)
        if not any(varies):
            self._fixed |= {id(t): t for t in tensors(output)}
        elif name in WEIGHTED and kind_of(name, varies) == "linear":
            self.layers += 1
            self._place([t for t, moves in zip(given, varies, strict=True) if not moves])

    def _place(self, constants: list[Tensor]) -> int:
        """The number of a weight: the same one wherever it is used, a new one where it is no parameter."""
        learnt = [t for t in constants if isinstance(t, nn.Parameter) or isinstance(t._base, nn.Parameter)]
        key: Hashable = tuple((t.data_ptr(), tuple(t.shape), t.stride()) for t in learnt)
        return self.weights.setdefault(key or object(), len(self.weights))

    def _follow_mask(self, seen: Seen, args: tuple[Any, ...], output: Any) -> None:
        if seen.name in MASK_CASTS and args and id(args[0]) in self._masks and isinstance(output, Tensor):
            self._masks[id(output)] = (output, self._masks[id(args[0])][1])


# --- what cannot be seen --------------------------------------------------------------------------


def refuse_hidden(outputs: Any) -> None:
    """Raise HIDDEN_BACKWARD for custom autograd functions and re-entrant checkpoints behind ``outputs``.

    A custom function whose backward only moves values may say so with a class attribute
    ``abe_plumbing = True``.
    """
    for node in _graph(outputs):
        made_by = getattr(type(node), "_forward_cls", None)
        if made_by is None or made_by is _SameValue or getattr(made_by, "abe_plumbing", False):
            continue
        if made_by.__name__ == "BackwardHookFunction":
            continue  # PyTorch's own, the identity at modules with backward hooks
        if made_by.__module__ == "torch._library.autograd":
            continue  # of a registered operation, which was seen by its name and has a rule
        if made_by.__name__ == "CheckpointFunction":
            raise _checkpoint("A re-entrant checkpoint hides its operations", reentrant=True)
        raise ModelError(
            Code.HIDDEN_BACKWARD,
            "A custom autograd function hides its operations, so no backward rule reaches them",
            got=f"{made_by.__module__}.{made_by.__qualname__}",
            fix="Use the plain operations, or set abe_plumbing = True on the class if its backward "
            "only moves values",
        )


def _refuse_transform(seen: Seen) -> None:
    """Raise HIDDEN_BACKWARD inside `torch.func.vmap` and its kin, whose tensors stand for others."""
    running = transform()
    if running is not None:
        what = "A function transform hides its operations, so no backward rule reaches them"
        told = seen.module is not None and not seen.name.startswith("_")
        around = where(seen.name, seen.module) if told else path_name(seen.module or "")
        raise hidden(Code.HIDDEN_BACKWARD, what, running, around)


def _refuse_checkpoint() -> None:
    """Raise HIDDEN_BACKWARD inside a checkpoint, whose part would run again without rules on the way back."""
    if in_checkpoint():
        raise _checkpoint("A checkpoint runs its operations again on the way back", reentrant=False)


def _checkpoint(what: str, *, reentrant: bool) -> ModelError:
    return ModelError(
        Code.HIDDEN_BACKWARD,
        f"{what}, so backward rules would silently be skipped",
        got=f"torch.utils.checkpoint with use_reentrant={reentrant}",
        fix="Switch checkpointing off to explain the model",
    )


def _graph(outputs: Any) -> Iterator[Any]:
    stack: list[Any] = [t.grad_fn for t in tensors(outputs) if t.grad_fn is not None]
    known: set[Any] = set(stack)
    while stack:
        node = stack.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in known:
                known.add(following)
                stack.append(following)
