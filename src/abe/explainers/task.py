"""Tasks given by two functions of a batch, and methods bound to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from abe.api import explain
from abe.checks import no_such
from abe.engines.path.dynamic import UpdatePath
from abe.engines.path.steps.estimators import Shown
from abe.errors import Code, SpecError, note
from abe.explainers.batches import Layout, Name, read
from abe.explainers.found import modules_of
from abe.explainers.model import Functions, Held, LossScore
from abe.explainers.settling import UnknownModuleError, agreeing, recognised, settle
from abe.explanation import Explanation
from abe.instrument.model_check import check_model, holding
from abe.instrument.model_state import as_found
from abe.instrument.modes import eager
from abe.registry import Method, methods
from abe.robustness.chain import Chain
from abe.task.base import Lifted, Task
from abe.task.channels import limits
from abe.task.entries import Entries
from abe.task.outputs import OutputKind, kind_of, told_apart
from abe.task.targets import column

MOST_UNKNOWN = 8
"""Modules that may turn out to be run before that is given up."""
ALONE = "Outputs of the functions belong to several rows at once, so every sample was run alone"
UNREAD = (
    "forward_fn gives no tensor with a row per sample, so the score itself is taken for the output, and "
    "there are no classes"
)
CALLED = ("y", "target", "targets", "label", "labels")
"""What the entry with the classes is called in a dict."""


class ModelType(Enum):
    """What the two functions belong to.

    Images lie in [0, 1] unless ``bounds=`` says otherwise. Text is given as embeddings (b, t, d): tokens
    are positions and the last axis are channels. Multimodal batches have several explained entries.
    """

    IMAGECLASSIFICATION = "image"
    NLPCLASSIFICATION = "text"
    MULTIMODAL = "multimodal"
    OBJECTDETECTION = "detection"
    TIMESERIESPREDICTION = "series"


class ExplanationTask:
    """A decision described by a loss and a forward function over batches ``[x, y, *extra]``.

    The explained score is ``−loss_fn`` of every sample on its own, whatever the loss sums or averages over.
    Where it is the logit or the log-probability of the class ``y``, which is found out on the first batch,
    that score is read from the outputs of ``forward_fn``. Classes that methods attack or compare are those of
    ``forward_fn``.

    Args:
        loss_fn: batch -> scalar.
        forward_fn: batch -> model output with a row per sample; methods that need classes need it. What holds
            several tensors is read as a model's output is (`abe.image_task`).
        model_type: what kind of data it is.
        explained: keys or positions of the entries to explain; by default the first, and of a first entry
            that is a dict or tuple all floating-point tensors inside.
        channels: axis of the channels of what is explained, 1 or −1; by default −1 for text, else 1.
        bounds: (low, high) of valid inputs, or None; ``"auto"`` is (0, 1) for images, else none.
        output_kind: what forward_fn's numbers are, as for `abe.image_task`.
        labels: class names.

    A batch is a list or tuple, or a dict, of entries with one value per sample: tensors, arrays, lists of
    numbers, or lists with any one object per sample. Modules that the functions run are found, explained in
    evaluation mode, and left as found. Layers are called as in the model, ``"layer4"``; where the functions
    run several modules with weights, the name of the variable stands in front, ``"vision.layer4"``.

    Raises:
        SpecError: a kind of model or an axis that there is not.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> def loss_fn(batch):
        ...     return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
        >>> task = ExplanationTask(loss_fn, lambda batch: model(batch[0]))
        >>> Explainer(task, "gradient")([torch.rand(2, 3, 2, 2), torch.tensor([0, 2])]).objective
        'LogProbability'
    """

    def __init__(
        self,
        loss_fn: Callable[[Any], Tensor],
        forward_fn: Callable[[Any], Any] | None = None,
        model_type: ModelType = ModelType.IMAGECLASSIFICATION,
        *,
        explained: Sequence[Name] | Name | None = None,
        channels: int | None = None,
        bounds: tuple[float, float] | Literal["auto"] | None = "auto",
        output_kind: OutputKind = "auto",
        labels: Any = None,
    ) -> None:
        kind = next((one for one in ModelType if model_type in (one, one.value)), None)
        if kind is None:
            raise no_such("kind of model", model_type, [f"ModelType.{one.name}" for one in ModelType])
        self.loss_fn, self.forward_fn, self.model_type = loss_fn, forward_fn, kind
        self.explained = (explained,) if isinstance(explained, str | int) else explained
        usual = -1 if kind is ModelType.NLPCLASSIFICATION else 1
        self.channels = usual if channels is None else channels
        if self.channels not in (1, -1):
            raise SpecError(
                Code.BAD_PARAMETER, "channels= is the axis of the channels", got=channels, expected="1 or -1"
            )
        unit = (0.0, 1.0) if kind is ModelType.IMAGECLASSIFICATION else None
        low, high = limits(unit if isinstance(bounds, str) and bounds == "auto" else bounds)
        self._kind: OutputKind = output_kind
        self._settled: Any = None
        self._count, self._more = 0, list[nn.Module]()
        self._agreed: Sequence[str] = ()
        means = modules_of(loss_fn, forward_fn)
        self._held = Held(loss_fn, forward_fn, means, lambda raw, n: Task.pick(self.task, raw, n))
        self._score = LossScore(self._held)
        self.task: Task = Task(
            model=Functions(self._held),
            modality=kind.value,
            lifter=self._lift,
            low=low,
            high=high,
            output_kind=output_kind if forward_fn is not None else "regression",
            labels=labels,
        )

    @property
    def objective(self) -> Any:
        """The explained score as `abe.explain` takes it with ``task``; settled by the first batch."""
        return (self._held.known or self._score) if self._held.classes else "logit"

    @property
    def alone(self) -> bool:
        """Whether every sample runs alone, because outputs of the functions belong to several rows."""
        return self._held.apart

    def prepare(self, batch: Any) -> tuple[Lifted, Tensor | None]:
        """A batch as ``task`` takes it, and its targets where ``y`` are classes.

        Raises:
            AbeError: the batch or the functions cannot be used.
        """
        for left in reversed(range(MOST_UNKNOWN)):
            means = modules_of(self.loss_fn, self.forward_fn, *self._more)
            if means != self._held.means:  # a variable may hold another model by now
                self._held.means, self._settled = means, None
                self.task = replace(self.task, model=Functions(self._held))
            try:
                found = self.task.lift(batch)
                return found, self._target(found)
            except UnknownModuleError as problem:
                self._more.append(problem.module)
                if not left:
                    raise
        raise RuntimeError("the loop returns or raises")

    def _lift(self, task: Task, raw: Any) -> Lifted:
        held, several = self._held, self.model_type is ModelType.MULTIMODAL
        layout, batch = read(raw, self.explained, last=self.channels == -1, several=several)
        found = layout.lifted(batch, held, task.device)
        task.check(found.x)
        on = {k: v.detach().to(task.device) if isinstance(v, Tensor) else v for k, v in batch.leaves.items()}
        batch, held.layout = replace(batch, leaves=on), layout
        form = repr(batch.tree), layout.objects, [batch.leaves[leaf].ndim for leaf in layout.explained]
        if self._settled != form:
            self._settle(task, batch, layout)
            self._settled = form
        with torch.no_grad():
            held.known = next(iter(agreeing(held, batch.rows(), self._agreed)), None)
        for one in (task, task.origin, self.task):
            one.output_kind = "regression" if not held.classes else "logits" if held.known else self._kind
        notes = [note(Code.COUPLED_ROWS, ALONE)] if held.apart else []
        if self.forward_fn is not None and not held.classes:
            notes.append(note(Code.OUTPUT_TYPE, UNREAD))
        return replace(found, notes=tuple(notes))

    def _settle(self, task: Task, batch: Entries, layout: Layout) -> None:
        """Find out on two rows how the functions run, and what the loss is."""
        held, model, kind = self._held, task.model, self._kind
        held.known, held.target, self._agreed = None, _classes(batch, layout.explained), ()
        rows = replace(batch, leaves={name: _mirrored(one) for name, one in batch.leaves.items()})
        with holding(model):
            check_model(model)
            with as_found(model), eager(model), torch.no_grad():
                outputs = settle(held, rows)
                kind = kind_of(outputs, None) or kind if kind == "auto" else kind
                if outputs is not None and kind == "logits":
                    self._agreed = recognised(held, rows.rows()[0], outputs[:1])
        self._count = told_apart(kind, outputs) if outputs is not None and outputs.ndim == 2 else 0

    def _target(self, found: Lifted) -> Tensor | None:
        """The entry with a class per sample, where it names classes of the output."""
        given = None if self._held.target is None else found.context.values.get(self._held.target)
        if given is None or not self._count:
            return None
        fits = bool(((given >= 0) & (given < self._count)).all())
        return column(given).long() if fits or self._held.known else None

    def check(self, method: Method) -> None:
        """Refuse a method that would misread the kind of data.

        Raises:
            SpecError: UNSUPPORTED for M2IB on a text alone, whose layers it takes for another input's.
        """
        if method.name == "m2ib" and self.model_type is ModelType.NLPCLASSIFICATION:
            raise SpecError(
                Code.UNSUPPORTED,
                "M2IB compares the towers of two inputs, and there is a text alone",
                expected="ModelType.MULTIMODAL with explained=(…, …)",
                fix='The bottleneck for one input is Explainer(task, "iba")',
            )

    def guided(self, method: Method) -> Method:
        """The method; where its path follows a class's loss and there are no classes, it goes up loss_fn."""
        path = method.engine
        if self._count or not isinstance(path, UpdatePath) or path.runs is not None:
            return method
        update = path.update
        if not isinstance(update, Chain) or not isinstance(update.estimator, Shown):
            return method
        return replace(method, engine=replace(path, guide=None, update=replace(update, loss="logit")))

    def shown(self, explanation: Explanation) -> Explanation:
        """The result with its axes as the user's batch has them."""
        if self._held.layout is None or not self._held.layout.last:
            return explanation
        maps = {name: getattr(explanation, name) for name in ("attribution", "x", "standard_error")}
        back = {k: None if one is None else one.movedim(1, -1).contiguous() for k, one in maps.items()}
        shape = (*explanation.x.shape[2:], explanation.x.shape[1])
        parts = tuple(replace(p, stop=shape[0], shape=shape, channels=1) for p in explanation.parts)
        return replace(explanation, **back, parts=parts, channels=-1)

    def release(self) -> None:
        """Let go of the rows that were run last."""
        self._held.ledger.clear()


def _classes(batch: Entries, explained: Sequence[str]) -> str | None:
    """The second entry of a batch, or the one called y or target, where it has a whole number per sample."""
    names = CALLED if isinstance(batch.tree, Mapping) else ("1",)
    named = [name for name in names if name in batch.leaves]
    if len(named) != 1 or named[0] in explained:
        return None
    given = batch.leaves[named[0]]
    whole = isinstance(given, Tensor) and not (given.is_floating_point() or given.is_complex())
    return named[0] if whole and given.dtype != torch.bool and column(given).ndim == 1 else None


def _mirrored(given: Any) -> Any:
    """Of an entry, the first sample, and itself back to front: two rows of valid numbers that differ."""
    if not isinstance(given, Tensor):
        return [given[0], given[0]]
    first = given[:1]
    turns = first.is_floating_point() and first.ndim > 1
    return torch.cat([first, first.flatten(1).flip(1).view_as(first) if turns else first])


class Explainer:
    """A method bound to an `ExplanationTask`; call it with a batch.

    Args:
        task: what is explained.
        method: a registered name, or a method as a value. Classes of this module bring their own.
        **params: of the method.

    Raises:
        SpecError: an unknown method or parameter.
    """

    of: ClassVar[str] = ""
    """Registered name of the method."""

    def __init__(self, task: ExplanationTask, method: Any = None, **params: Any) -> None:
        if bool(self.of) == (method is not None):
            raise SpecError(
                Code.BAD_PARAMETER,
                "Name a method" if not self.of else f"{type(self).__name__} is a method already",
                got=method,
                fix='Write Explainer(task, "lrp_epsilon") for a method without a class of its own'
                if not self.of
                else "Pass parameters by name",
            )
        if not isinstance(task, ExplanationTask):
            raise SpecError(
                Code.BAD_PARAMETER,
                "These methods are bound to an ExplanationTask",
                got=f"the class {task.__name__}" if isinstance(task, type) else type(task).__name__,
                fix="Make one of your loss and forward functions; for other tasks use abe.explain",
            )
        chosen = self.of or method
        self.task = task
        self.method: Method = (
            methods.build(chosen, **params) if isinstance(chosen, str) else methods.resolve(chosen)
        )

    def __call__(self, batch: Any, *, seed: int = 0, progress: bool = True) -> Explanation:
        """Explain ``−loss_fn`` of every sample of a batch.

        Args:
            batch: as the functions take it.
            seed: of all random draws.
            progress: show a bar after two seconds.

        Returns:
            A map with the shape of what is explained; of several entries, ``unpack()`` gives one each.

        Raises:
            AbeError: anything unusable; modules are left as found.
        """
        self.task.check(self.method)
        given, target = self.task.prepare(batch)
        try:
            made = explain(
                self.task.task,
                given,
                self.task.guided(self.method),
                target=target,
                objective=self.task.objective,
                seed=seed,
                chunk=1 if self.task.alone else None,
                progress=progress,
            )
        finally:
            self.task.release()
        return self.task.shown(made)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method})"
