"""A private copy of the user's model that gives the same gradients at the input for less.

In evaluation mode batch norm is affine, so a convolution followed by it is one convolution:

    gamma (W*x + b - mean) / sqrt(var + eps) + beta  =  (s W)*x + (s (b - mean) + beta),
    s = gamma / sqrt(var + eps)   per output channel.

Which pairs may be merged is *observed*: one probe run under a function mode shows every operation
with its tensor objects, so a pair counts only if the normalisation is the single reader of that
very convolution output, and every tensor involved is read once. Nothing is traced or rewritten.

The user's model is neither run nor changed here. The copy shares the storage of parameters that stay
as they are; folded and reordered weights, and all buffers, are its own.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from abe.instrument.inspection import (
    compiled,
    dense_parts,
    hooked,
    path_name,
    rewired,
    scripted,
)
from abe.instrument.operations import is_metadata, tensors
from abe.instrument.plain import Plain

OUTPUT_TOLERANCE = 1e-5
"""Largest output difference as a share of the row's largest output."""
GRADIENT_TOLERANCE = 5e-3
"""Gradient difference in L2 of the median row, as a share of the row's gradient."""
KINK_TOLERANCE = 5e-2
"""The same for any single row. The gradient of a ReLU or max-pool network jumps where rounding moves a
unit across its kink: single float32 rows of deep networks differ from float64 by up to 7e-3, and from
themselves by as much when the batch size changes; a wrongly merged layer differs by far more."""

BLUR = 3.0
"""Gradient differences up to this multiple of what rounding errors at the input cause are no disagreement."""

Run = Callable[[nn.Module], Tensor]
"""Runs a model on a small probe batch and returns the output tensor, rows first."""


@dataclass(frozen=True)
class Prepared:
    """A model to run instead of the user's, or the user's with the reason why.

    Attributes:
        model: what to run; its parameters require no gradient unless it is the user's own.
        name: ``"folded+channels_last"``, ``"folded"``, ``"channels_last"`` or ``"model"``.
        reason: what was done, or why nothing was.
        channels_last: whether inputs are best given in channels-last layout.
        folded: how many batch norms were merged away.
    """

    model: nn.Module
    name: str
    reason: str
    channels_last: bool = False
    folded: int = 0


class _UnusableError(Exception):
    """The copy cannot be made or does not give the model's outputs; the text is the reason."""


def prepare(model: nn.Module, run: Run) -> Prepared:
    """The copy expected to be fastest, or the model itself with the reason.

    Args:
        model: the user's model in evaluation mode.
        run: runs a given model on a small probe batch.
    """
    return next(candidates(model, run))


def candidates(model: nn.Module, run: Run) -> Iterator[Prepared]:
    """Lazily, the variants worth timing: the best guess first, the user's model last.

    Every copy has given the unmerged copy's outputs on the probe batch within `OUTPUT_TOLERANCE`;
    the caller still checks gradients on real rows with `agrees`. Which variant is fastest depends on
    the network and the machine. The last one is always the user's model; if it is the only one, its
    ``reason`` says why.
    """
    notes: list[str] = []
    try:
        plain, folded, pairs, reference = _base(model, run, notes)
    except _UnusableError as problem:
        yield Prepared(model, "model", str(problem))
        return
    yield from _channels_last_candidate(folded or plain, run, reference, pairs if folded else 0, notes)
    if folded is not None:
        yield Prepared(folded, "folded", f"{pairs} batch norms folded", folded=pairs)
    yield Prepared(model, "model", "; ".join(notes) or "the user's own model")


def agrees(
    reference_output: Float[Tensor, "..."],
    output: Float[Tensor, "..."],
    reference_gradient: Float[Tensor, "..."],
    gradient: Float[Tensor, "..."],
    *,
    blur: Float[Tensor, "..."] | None = None,
) -> bool:
    """Whether a copy may stand in for the model on these rows.

    Outputs to 1e-5 of the row's largest for every row; gradients at the input to 5e-3 in L2 for at
    least half of the rows and to 5e-2 for every row (`KINK_TOLERANCE` says why).

    Args:
        reference_output: (n, …) of the model.
        output: (n, …) of the copy.
        reference_gradient: (n, …) of the model.
        gradient: (n, …) of the copy.
        blur: (n,) how far rounding errors at the input alone move the model's gradient in L2; what is
            within `BLUR` times that counts as agreement.
    """
    return _outputs_agree(reference_output, output) and _gradients_agree(reference_gradient, gradient, blur)


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """A cheap value that changes when a parameter, buffer, attribute, hook or module of the model changes.

    Version counters see in-place edits, and a checksum of the values' bits sees what goes round them
    (``.data``, NumPy views). It reads every weight once. Where a model keeps more than can be looked at,
    no value equals another.
    """
    plain = Plain(model.modules())
    modules = tuple((name, id(module), module.training) for name, module in model.named_modules())
    digest = hashlib.blake2b(digest_size=16)
    versions: list[tuple[Any, ...]] = []
    others = [("", tensor) for tensor in plain.tensors if not tensor.is_meta]
    for name, tensor in (*model.named_parameters(), *model.named_buffers(), *others):
        version = -1 if tensor.is_inference() else tensor._version  # pyright: ignore[reportPrivateUsage]
        versions.append((name, id(tensor), version, tensor.dtype, tensor.shape, tensor.device))
        for part in dense_parts(tensor.detach()):
            digest.update(_checksum(part))
    kept = plain.found if plain.whole else object()
    hooks = (tuple(hooked(model)), tuple(rewired(model)))
    return (modules, tuple(versions), hooks, kept, digest.hexdigest())


# --- building -------------------------------------------------------------------------------------


def _base(model: nn.Module, run: Run, notes: list[str]) -> tuple[nn.Module, nn.Module | None, int, Tensor]:
    """The unmerged copy, the merged one where there is something to merge, and the reference outputs."""
    _refuse(model)
    plain = _twin(model)
    watch = _Watch()
    reference = _probe(plain, run, watch)
    originals = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    if originals & watch.reads.keys():
        raise _UnusableError("the copy still reads the original's parameters")
    if watch.branches:
        raise _UnusableError(
            f"the forward reads tensor values in Python ({watch.branches[0]}), so it may take other branches"
        )
    pairs = _pairs(plain, watch)
    if not pairs:
        notes.append("no batch norm directly behind a convolution")
        return plain, None, 0, reference
    folded = _twin(plain)
    for pair in pairs:
        _fold(folded, pair)
    try:
        _verify(folded, run, reference)
    except _UnusableError as problem:
        notes.append(f"folding: {problem}")
        return plain, None, 0, reference
    return plain, folded, len(pairs), reference


def _channels_last_candidate(
    base: nn.Module, run: Run, reference: Tensor, pairs: int, notes: list[str]
) -> Iterator[Prepared]:
    reordered = _twin(base)
    if not _reorder(reordered):
        notes.append("no two-dimensional convolution to reorder")
        return
    try:
        _verify(reordered, run, reference)
    except _UnusableError as problem:
        notes.append(f"channels-last: {problem}")
        return
    name = "folded+channels_last" if pairs else "channels_last"
    reason = f"{pairs} batch norms folded, weights channels-last" if pairs else "weights channels-last"
    yield Prepared(reordered, name, reason, channels_last=True, folded=pairs)


def _refuse(model: nn.Module) -> None:
    """Raise with the reason if no copy of this model can be trusted."""
    if names := scripted(model):
        raise _UnusableError(f"scripted or traced: {path_name(names[0])}")
    if names := compiled(model):
        raise _UnusableError(f"compiled: {path_name(names[0])}")
    if names := hooked(model):
        raise _UnusableError(f"hooks on {path_name(names[0])}")
    if names := rewired(model):
        raise _UnusableError(f"forward replaced on the instance: {path_name(names[0])}")
    if names := [name for name, module in model.named_modules() if module.training]:
        raise _UnusableError(f"in training mode: {path_name(names[0])}")
    if not Plain(model.modules()).whole:
        raise _UnusableError("it keeps more than can be watched for changes")
    for name, parameter in model.named_parameters():
        if type(parameter) is not nn.Parameter:
            raise _UnusableError(f"parameter {name!r} is a {type(parameter).__name__}")


def _twin(model: nn.Module) -> nn.Module:
    """A copy that shares parameter storage but no tensor object, flag, gradient or buffer."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as problem:  # any class of the user's may refuse, in its own way
        raise _UnusableError(f"the model cannot be copied ({_brief(problem)})") from problem


def _probe(model: nn.Module, run: Run, watch: "_Watch | None" = None) -> Tensor:
    """The outputs on the probe batch; the random state is as before afterwards."""
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            if watch is None:
                return run(model).detach()
            with watch.inside(model), watch:
                return run(model).detach()
    except Exception as problem:  # the model's own error surfaces when the model itself is run
        raise _UnusableError(f"the probe run failed ({_brief(problem)})") from problem


def _verify(model: nn.Module, run: Run, reference: Tensor) -> None:
    if not _outputs_agree(reference, _probe(model, run)):
        raise _UnusableError("the outputs differ on the probe batch")


def _brief(problem: Exception) -> str:
    text = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {text[0][:120]}" if text else type(problem).__name__


# --- observing ------------------------------------------------------------------------------------


class _Normalised(NamedTuple):
    """One batch-norm call in evaluation mode and the tensors it read."""

    source: Tensor
    mean: Tensor
    variance: Tensor


class _Convolved(NamedTuple):
    """One convolution call and the tensors it read."""

    output: Tensor
    weight: Tensor
    bias: Tensor | None


class _Pair(NamedTuple):
    convolution: str
    normalisation: str


_CONVOLUTIONS = frozenset({torch.conv1d, torch.conv2d, torch.conv3d})
_TO_PYTHON = frozenset(
    {"__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "__array__"}
    | {"item", "tolist", "numpy", "equal", "allclose", "is_nonzero"}
)


class _Watch(TorchFunctionMode):
    """Counts how often each tensor object is read; holds what it names, so that no identity is reused."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[int] = Counter()
        self.convolutions: list[_Convolved] = []
        self.normalisations: list[_Normalised] = []
        self.branches: list[str] = []
        self._inside = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not is_metadata(func):
            self._note(func, getattr(func, "__name__", ""), args, kwargs, result)
        return result

    @contextmanager
    def inside(self, model: nn.Module) -> Generator[None, None, None]:
        """Tell the model's own reads from those of the caller's checks around it."""
        hooks = (
            model.register_forward_pre_hook(self._enter),
            model.register_forward_hook(self._leave, always_call=True),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._inside += 1

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside -= 1

    def _note(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        inputs = list(tensors((args, kwargs)))
        self.reads.update(id(tensor) for tensor in inputs)
        if name in _TO_PYTHON and inputs and self._inside:
            self.branches.append(name)
        if func in _CONVOLUTIONS:
            bound = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            self.reads[id(result)] = 0  # an earlier tensor may have had this identity
            self.convolutions.append(_Convolved(result, bound["weight"], bound.get("bias")))
        elif func is F.batch_norm:
            self._note_normalisation(args, kwargs)

    def _note_normalisation(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = ("input", "running_mean", "running_var", "weight", "bias", "training")
        bound = dict(zip(names, args, strict=False)) | kwargs
        mean, variance = bound.get("running_mean"), bound.get("running_var")
        if not bound.get("training", False) and mean is not None and variance is not None:
            self.normalisations.append(_Normalised(bound["input"], mean, variance))


def _pairs(model: nn.Module, watch: _Watch) -> list[_Pair]:
    """Convolutions and the batch norms that are the only reader of their output."""
    convolutions = _by_tensor(model, _ConvNd, "weight")
    normalisations = _by_tensor(model, _BatchNorm, "running_mean")
    sources = {id(call.output): call for call in watch.convolutions}
    pairs: list[_Pair] = []
    for call in watch.normalisations:
        source = sources.get(id(call.source))
        if source is None:
            continue
        convolution = convolutions.get(id(source.weight))
        normalisation = normalisations.get(id(call.mean))
        if convolution is None or normalisation is None:
            continue
        if _mergeable(model, convolution, normalisation, source, watch.reads):
            pairs.append(_Pair(convolution, normalisation))
    return pairs


def _by_tensor(model: nn.Module, kind: type[nn.Module], attribute: str) -> dict[int, str]:
    """id of a module's tensor -> module name, for modules registered once whose tensor is theirs alone."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        tensor = getattr(module, attribute, None)
        if isinstance(tensor, Tensor):
            names.setdefault(id(tensor), []).append(name)
    return {
        key: found[0]
        for key, found in names.items()
        if len(found) == 1 and isinstance(model.get_submodule(found[0]), kind)
    }


def _mergeable(
    model: nn.Module, convolution: str, normalisation: str, call: _Convolved, reads: Counter[int]
) -> bool:
    conv, norm = model.get_submodule(convolution), model.get_submodule(normalisation)
    plain_norm = type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    own = conv.weight is call.weight and conv.bias is call.bias and "weight" in conv._parameters  # pyright: ignore[reportPrivateUsage]
    involved = (call.output, conv.weight, conv.bias, norm.weight, norm.bias)
    involved += (norm.running_mean, norm.running_var)
    once = all(reads[id(tensor)] == 1 for tensor in involved if isinstance(tensor, Tensor))
    transposed = bool(getattr(conv, "transposed", False))
    return plain_norm and own and once and not transposed


# --- changing the copy ----------------------------------------------------------------------------


@torch.no_grad()
def _fold(model: nn.Module, pair: _Pair) -> None:
    """Replace convolution and batch norm by one convolution; computed in float64."""
    conv: Any = model.get_submodule(pair.convolution)
    norm: Any = model.get_submodule(pair.normalisation)
    dtype = conv.weight.dtype
    weight, bias = fuse_conv_bn_weights(
        _double(conv.weight),
        _double(conv.bias),
        _double(norm.running_mean),
        _double(norm.running_var),
        norm.eps,
        _double(norm.weight),
        _double(norm.bias),
    )
    conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    parent, _, leaf = pair.normalisation.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Identity().eval())


def _double(part: Tensor | None) -> Any:
    return None if part is None else part.double()


@torch.no_grad()
def _reorder(model: nn.Module) -> int:
    """Give two-dimensional convolutions channels-last weights; returns how many there are."""
    count = 0
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and "weight" in module._parameters:  # pyright: ignore[reportPrivateUsage]
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
            count += 1
    return count


# --- comparing ------------------------------------------------------------------------------------


def _difference(reference: Tensor, other: Tensor) -> tuple[Tensor, Tensor] | None:
    """(n, d) reference rows and differences in float64, or None where they cannot be compared."""
    if reference.shape != other.shape or reference.dtype != other.dtype or reference.ndim == 0:
        return None
    rows = reference.detach().double().reshape(len(reference), -1 if reference.numel() else 0)
    difference = other.detach().double().reshape(rows.shape) - rows
    return (rows, difference) if bool(torch.isfinite(difference).all()) else None


def _outputs_agree(reference: Tensor, other: Tensor) -> bool:
    compared = _difference(reference, other)
    if compared is None:
        return False
    rows, difference = compared
    largest = partial(torch.linalg.vector_norm, ord=torch.inf, dim=1)
    return bool((largest(difference) <= OUTPUT_TOLERANCE * largest(rows)).all())


def _gradients_agree(reference: Tensor, other: Tensor, blur: Tensor | None = None) -> bool:
    compared = _difference(reference, other)
    if compared is None:
        return False
    rows, difference = compared
    if rows.numel() == 0:
        return True
    size, wrong = rows.norm(dim=1), difference.norm(dim=1)
    slack = torch.zeros_like(size) if blur is None else BLUR * blur.to(size)
    typical = int((wrong <= torch.maximum(GRADIENT_TOLERANCE * size, slack)).sum())
    return 2 * typical >= len(rows) and bool((wrong <= torch.maximum(KINK_TOLERANCE * size, slack)).all())


_WIDTH = 1024
_AS_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def _checksum(tensor: Tensor) -> bytes:
    """The bits of small tensors, else sums of 1,024 neighbours' as integers: any change of one value is seen.

    The bits are read as 64-bit integers, whose sums wrap: others are widened first, twenty times as slow.
    """
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.resolve_neg()
    if plain.numel() <= _WIDTH:
        return plain.cpu().view(_AS_INTEGERS[plain.element_size()]).numpy().tobytes()
    flat = plain.reshape(-1).view(_AS_INTEGERS[plain.element_size()])
    rows = flat.numel() // _WIDTH
    body, tail = flat[: rows * _WIDTH], flat[rows * _WIDTH :]
    if (body.storage_offset() * body.element_size()) % 8 == 0:
        body = body.view(torch.int64)
    sums = body.view(rows, -1).sum(1)
    return torch.cat([tail.sum()[None], sums]).cpu().numpy().tobytes()
