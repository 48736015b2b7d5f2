"""Tasks of several inputs: each read, bounded, normalised, cut and replaced in its own way."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from abe import arrays
from abe.checks import need_list
from abe.errors import Code, InputError, ModelError, SpecError, suggest
from abe.task.array.series import series_task
from abe.task.array.tensor import tensor_task
from abe.task.base import Context, Lifted, Task
from abe.task.batch import context_of
from abe.task.channels import Numbers, limits, per_channel, scale
from abe.task.image.lifter import image_task
from abe.task.lengths import ends_of
from abe.task.lifted import Units, pack, suits
from abe.task.outputs import OutputKind, class_names
from abe.task.text.lifter import TextLifter, text_task
from abe.units.cuts import along, labels_of, names_of

PIECE, INPUT = "piece", "input"
"""Kinds of units: what each input is cut into, and whole inputs."""


@dataclass(frozen=True)
class Reading:
    """How one of several inputs is read; made by `image`, `columns`, `series`, `tensor` and `text`.

    Attributes:
        kind: ``"image"``, …
        make: makes the task of a model that had this input alone.
        settings: what it is made with.
    """

    kind: str
    make: Callable[..., Task] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def task(self, model: nn.Module) -> Task:
        """The task of this input alone."""
        return self.make(model, **self.settings)


def image(
    *,
    bounds: tuple[Numbers, Numbers] | None = (0.0, 1.0),
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: int | tuple[int, int] | None = None,
    fit: Any = "crop",
    channels: int | None = None,
) -> Reading:
    """An image among the inputs of `make_task`; settings as for `abe.image_task`.

    Args:
        bounds: valid range before normalisation.
        mean: subtracted inside the task.
        std: divided by inside the task.
        size: (height, width) photographs are brought to.
        fit: ``"crop"`` or ``"stretch"``.
        channels: of the model's input.
    """
    said = {"bounds": bounds, "mean": mean, "std": std, "size": size, "fit": fit, "channels": channels}
    return Reading("image", image_task, said)


def series(axes: str, **settings: Any) -> Reading:
    """A series among the inputs of `make_task`.

    Args:
        axes: as for `abe.series_task`.
        **settings: of `abe.series_task`.
    """
    return Reading("series", series_task, {"axes": axes, **settings})


def tensor(axes: str, **settings: Any) -> Reading:
    """An array with named axes among the inputs of `make_task`.

    Args:
        axes: as for `abe.tensor_task`.
        **settings: of `abe.tensor_task`.
    """
    return Reading("tensor", tensor_task, {"axes": axes, **settings})


def text(tokenizer: Any, **settings: Any) -> Reading:
    """A text among the inputs of `make_task`; what is explained is the output of its embedding.

    Special tokens and padding are fixed; absent words show the mask token. The model takes the ids by the
    input's name, and what goes with them, such as ``attention_mask``, by its own.

    Args:
        tokenizer: as for `abe.text_task`.
        **settings: ``embedding``, ``max_length`` and ``truncate`` of `abe.text_task`.
    """
    strange = [key for key in settings if key not in ("embedding", "max_length", "truncate")]
    if strange:
        raise SpecError(
            Code.UNKNOWN_PARAMETER,
            f"A text among several inputs has no {strange[0]}=",
            expected="embedding, max_length or truncate",
            fix="What the outputs are is said to make_task",
        )
    return Reading("text", text_task, {"tokenizer": tokenizer, **settings})


def columns(
    names: Sequence[str] | None = None,
    *,
    bounds: tuple[Numbers, Numbers] | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    background: Any = None,
) -> Reading:
    """Numbers (b, d) among the inputs of `make_task`, such as age and weight beside an image.

    Args:
        names: of the columns; of a table, the ones that are taken, in this order.
        bounds: valid range before normalisation, numbers or one per column.
        mean: subtracted inside the task, a number or one per column.
        std: divided by inside the task, a number or one per column.
        background: rows whose mean is the reference; by default it is ``mean``, or zero.
    """
    said = {"names": names, "bounds": bounds, "mean": mean, "std": std, "background": background}
    return Reading("columns", _columns_task, said)


def make_task(
    model: nn.Module,
    inputs: Mapping[Any, Reading],
    *,
    labels: Any = None,
    output: Any = None,
    output_kind: OutputKind = "auto",
) -> Task:
    """A task for a model of several inputs, all explained at once, each by its own reading.

    Args:
        model: takes its inputs by keyword or position.
        inputs: by keyword or place of the model's call, how each explained input is read: `abe.image`,
            `abe.columns`, `abe.series`, `abe.tensor` or `abe.text`.
        labels: class names, as for `abe.image_task`.
        output: where the class scores are, as for `abe.image_task`.
        output_kind: what they are, as for `abe.image_task`.

    Shape:
        a dict {name: input}, or a tuple where inputs are told by place. Inputs that have no reading are
        passed along. Features hold all explained inputs; ``explanation.part(name)`` gives one back. Units
        are what each input is cut into; ``"input"`` are whole inputs.

    Raises:
        SpecError: no inputs, or a reading that is none.

    Example:
        >>> import torch, abe
        >>> class Both(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b = torch.nn.Linear(12, 2), torch.nn.Linear(2, 2)
        ...     def forward(self, picture, person):
        ...         return self.a(picture.flatten(1)) + self.b(person)
        >>> task = abe.make_task(Both(), {"picture": abe.image(), "person": abe.columns(["age", "weight"])})
        >>> given = {"picture": torch.rand(1, 3, 2, 2), "person": torch.rand(1, 2)}
        >>> found = abe.explain(task, given, "ig", progress=False)
        >>> found.part("picture").shape, [name for name, share in found.by_unit()[0]][-2:]
        (torch.Size([1, 3, 2, 2]), ['person age', 'person weight'])
    """
    if not isinstance(inputs, Mapping) or not inputs:
        raise SpecError(
            Code.BAD_PARAMETER,
            "inputs= says by name how each explained input is read",
            got=type(inputs).__name__ if not isinstance(inputs, Mapping) else "no input",
            expected='for example {"image": abe.image(), "meta": abe.columns()}',
        )
    for name, reading in inputs.items():
        if not isinstance(reading, Reading) or isinstance(name, bool) or not isinstance(name, str | int):
            raise SpecError(
                Code.BAD_PARAMETER,
                f"The input {name!r} has no reading",
                got=type(reading).__name__,
                expected="abe.image(…), abe.columns(…), abe.series(…), abe.tensor(…) or abe.text(…), "
                "by keyword or place",
            )
    tasks = {name: reading.task(model) for name, reading in inputs.items()} if _is_module(model) else {}
    for name, one in tasks.items():
        if isinstance(one.lifter, TextLifter):
            one.lifter = replace(one.lifter, ids=name)
    return Task(
        model=model,
        modality="several",
        lifter=SeveralLifter(tasks),
        labels=class_names(labels),
        output=output,
        output_kind=output_kind,
        suits=suits(baseline="each_part"),
    )


def _is_module(model: Any) -> bool:
    return isinstance(model, nn.Module)  # else the task itself says what it needs


@dataclass(frozen=True)
class SeveralLifter:
    """Turns several inputs into packed features.

    Attributes:
        tasks: by name, the task of each explained input alone.
    """

    tasks: Mapping[str | int, Task]

    def __call__(self, task: Task, raw: Any) -> Lifted:
        return self.joined(task, *self.read(task, raw))

    def read(self, task: Task, raw: Any) -> tuple[dict[str | int, Lifted], dict[str | int, Any]]:
        """Every explained input by itself, and what is passed along."""
        given = self._named(raw)
        rest = {k: v for k, v in given.items() if k not in self.tasks}
        known = _parameters(task.model)
        for name in rest:
            if isinstance(name, str) and known is not None and name not in known:
                raise InputError(
                    Code.SHAPE,
                    f"The model takes no input called {name!r}",
                    expected=", ".join(map(repr, known)),
                    fix=suggest(name, known) or None,
                )
        texts = {name: one for name, one in self.tasks.items() if isinstance(one.lifter, TextLifter)}
        plain = {name: one.lift(given[name]) for name, one in self.tasks.items() if name not in texts}
        for name, lifted in plain.items():
            self._check(name, lifted)
        read = {name: self._read(task, one, given[name], plain, rest) for name, one in texts.items()}
        own = {name: read[name] if name in texts else plain[name] for name in self.tasks}
        for name, lifted in read.items():
            self._check(name, lifted)
        return own, rest

    def joined(self, task: Task, own: Mapping[str | int, Lifted], rest: Mapping[str | int, Any]) -> Lifted:
        """The inputs as packed features."""
        ends = ends_of(own)
        blocks = {k: one.x for k, one in own.items()}
        x, parts = pack(blocks, {k: self.settings(k, own[k]) for k in own}, flat=bool(ends))
        n = len(x)
        values = dict[str | int, Tensor]()
        for name, one in own.items():
            if shared := [key for key in one.context.values if key in values]:
                raise InputError(
                    Code.SHAPE,
                    f"The model takes one {shared[0]!r} for several inputs",
                    got=f"another one for {name!r}",
                    fix="Wrap the model so that each text has a mask of its own",
                )
            values |= one.context.values
        values |= {key: context_of(task, item, n, key) for key, item in rest.items()}
        first = next(iter(own.values()))
        return Lifted(
            x=x,
            context=Context(values, ends),
            names=first.names,
            parts=parts,
            notes=tuple(dict.fromkeys(text for one in own.values() for text in one.notes)),
            units=self._units(own, x),
            rows=sum(one.rows for one in own.values()),
        )

    def _read(
        self,
        task: Task,
        one: Task,
        raw: Any,
        plain: Mapping[str | int, Lifted],
        rest: Mapping[str | int, Any],
    ) -> Lifted:
        """A text; its embedding is found by a run with the other inputs of the first sample.

        Raises:
            ModelError: there are several texts, none of which can be run without the others.
        """
        lifter: TextLifter = one.lifter
        texts = [name for name, other in self.tasks.items() if isinstance(other.lifter, TextLifter)]
        if len(texts) > 1 and any(self.tasks[name].lifter.embedding is None for name in texts):
            raise ModelError(
                Code.EMBEDDING,
                "With several texts it is not clear which module looks the tokens of each up",
                got=f"the texts {', '.join(map(repr, texts))}",
                fix='Name them: abe.text(tokenizer, embedding="encoder.embed") for each',
            )
        try:
            lifter.beside.update(self._others(task, plain, rest))
            return one.lift(raw)
        finally:
            lifter.beside.clear()

    def _others(
        self, task: Task, plain: Mapping[str | int, Lifted], rest: Mapping[str | int, Any]
    ) -> dict[str | int, Tensor]:
        """Everything but texts of the first sample, as the model takes it."""
        found = dict[str | int, Tensor]()
        for name, lifted in plain.items():
            first = lifted.x[:1]
            (part,) = pack({name: first}, {name: self.settings(name, lifted)})[1]
            found[name] = part.restored(first)
            found |= {key: values[:1] for key, values in lifted.context.values.items()}
        for name, item in rest.items():
            n = next((len(one.x) for one in plain.values()), len(item) if hasattr(item, "__len__") else 1)
            found[name] = context_of(task, item, n, name)[:1]
        return found

    def absent(self, name: str | int) -> Any:
        """The reference of an input where none is said."""
        return self.tasks[name].suits.get(("baseline", "zero"), "zero")

    def _named(self, raw: Any) -> dict[str | int, Any]:
        """The inputs by name."""
        if isinstance(raw, Mapping):
            given: dict[str | int, Any] = dict(raw)
        elif isinstance(raw, tuple) and all(isinstance(name, int) for name in self.tasks):
            given = dict(enumerate(raw))
        else:
            raise InputError(
                Code.SHAPE,
                "Several inputs come by name",
                got=type(raw).__name__,
                expected=f"a dict with {', '.join(map(repr, self.tasks))}",
            )
        missing = [name for name in self.tasks if name not in given]
        if missing:
            raise InputError(
                Code.SHAPE,
                f"The input {missing[0]!r} was not given",
                got=f"inputs {list(given)}",
                expected=", ".join(map(repr, self.tasks)),
            )
        return given

    def _check(self, name: str | int, lifted: Lifted) -> None:
        """Refuse one input that is unusable, in its own terms."""
        try:
            self.tasks[name].check(lifted.x)
        except InputError as problem:
            what = f"{problem.what} (input {name!r})"
            raise InputError(
                problem.code, what, got=problem.got, expected=problem.expected, fix=problem.fix
            ) from problem

    def settings(self, name: str | int, lifted: Lifted) -> dict[str, Any]:
        """What the packed part of an input says beside its place."""
        task = self.tasks[name]
        found: dict[str, Any] = {
            "channels": lifted.parts[0].channels if lifted.parts else 1,
            "along": tuple(lifted.context.values),
        }
        if lifted.parts and lifted.parts[0].layer is not None:
            part = lifted.parts[0]
            return {**found, "layer": part.layer, "low": part.low, "high": part.high}
        for key in ("low", "high", "mean", "std"):
            numbers: Tensor | None = getattr(task, key)
            if numbers is not None:
                found[key] = tuple(numbers.flatten().tolist())
        return found

    def _units(self, own: Mapping[str | int, Lifted], x: Tensor) -> tuple[Units, ...]:
        """What every input is cut into, and whole inputs."""
        pieces, wholes, names = list[Tensor](), list[Tensor](), [list[str]() for _ in range(len(x))]
        for number, (name, lifted) in enumerate(own.items()):
            labels, called = _pieces(self.tasks[name], lifted)
            begun = torch.tensor([len(one) for one in names], device=x.device)
            start = begun.view(-1, *[1] * (labels.ndim - 1))
            labels = labels.to(x.device)
            labels = torch.where(labels < 0, labels, labels + start).expand_as(lifted.x)
            pieces.append(labels.flatten(1) if x.ndim == 2 else labels)
            wholes.append(torch.full_like(pieces[-1], number).masked_fill(pieces[-1] < 0, -1))
            names = [
                [*mine, *(f"{name} {one}" for one in more)] for mine, more in zip(names, called, strict=True)
            ]
        whole = [[str(name) for name in own]] * len(x)
        return Units(PIECE, torch.cat(pieces, 1), names), Units(INPUT, torch.cat(wholes, 1), whole)


def _pieces(task: Task, lifted: Lifted) -> tuple[Tensor, list[list[str]]]:
    """(b, 1 or c, *positions) the natural units of one input, and their names; cells of an image."""
    if lifted.units:
        return lifted.units[0].labels, lifted.units[0].names
    shape = tuple(lifted.x.shape[1:])
    numbers = along("block", "hw", shape[1:])
    labels = labels_of(numbers, "hw", shape, channels=False)
    names = names_of(numbers, "hw", _cell)
    return labels.expand(len(lifted.x), *labels.shape[1:]), [names] * len(lifted.x)


def _cell(letter: str, first: int, last: int) -> str:
    said = {"h": "rows", "w": "columns"}[letter]
    return f"{said} {first}–{last}"


def _parameters(model: nn.Module) -> list[str] | None:
    """Keywords that a model takes; None where it takes any."""
    found = inspect.signature(model.forward).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in found):
        return None
    return [one.name for one in found if one.kind is not one.VAR_POSITIONAL]


# --- columns ------------------------------------------------------------------------------------------


def _columns_task(
    model: nn.Module,
    *,
    names: Sequence[str] | None,
    bounds: tuple[Numbers, Numbers] | None,
    mean: Numbers | None,
    std: Numbers | None,
    background: Any,
) -> Task:
    low, high = limits(bounds, 0)
    named = None if names is None else tuple(map(str, need_list("names", names, "names of columns")))
    lifter = ColumnsLifter(named)
    task = Task(
        model=model,
        modality="tabular",
        lifter=lifter,
        mean=per_channel("mean", mean, 0),
        std=scale("std", std, 0),
        low=low,
        high=high,
    )
    absent: Any = "scaled_zero"
    if background is not None:
        rows = lifter(task, background).x
        if not bool(torch.isfinite(rows).all()):
            raise InputError(Code.NOT_FINITE_INPUT, "The background holds NaN or infinity")
        absent = rows.mean(0, keepdim=True)
    task.suits = suits(baseline=absent)
    return task


@dataclass(frozen=True)
class ColumnsLifter:
    """Turns rows of numbers into (b, d) features."""

    names: tuple[str, ...] | None

    def __call__(self, task: Task, raw: Any) -> Lifted:
        names = self.names
        if isinstance(raw, Mapping) or hasattr(raw, "columns"):
            held = [str(one) for one in (raw if isinstance(raw, Mapping) else raw.columns)]
            chosen = list(names or held)
            missing = [name for name in chosen if name not in held]
            if missing:
                raise InputError(
                    Code.SHAPE,
                    f"There is no column called {missing[0]!r}",
                    got=", ".join(held),
                    fix=suggest(missing[0], held) or None,
                )
            by_name = {str(key): raw[key] for key in (raw if isinstance(raw, Mapping) else raw.columns)}
            each = [arrays.from_numpy(by_name[name], f"The column {name!r}").reshape(-1) for name in chosen]
            if len({len(one) for one in each}) > 1:
                raise InputError(
                    Code.SHAPE, "Columns have as many rows", got=f"{sorted({len(one) for one in each})}"
                )
            x, names = torch.stack([one.double() for one in each], 1).to(task.dtype), tuple(chosen)
        else:
            x = raw.detach() if isinstance(raw, Tensor) else arrays.from_numpy(raw, "Columns")
        if x.is_complex():
            raise InputError(Code.DTYPE, "Columns are real numbers", got=str(x.dtype))
        x = x[None] if x.ndim == 1 else x
        if x.ndim != 2 or not x.numel():
            raise InputError(
                Code.SHAPE if x.numel() else Code.EMPTY_BATCH,
                "Columns are numbers (b, d), or one row of them",
                got=f"shape {tuple(x.shape)}",
            )
        if names is not None and len(names) != x.shape[1]:
            raise InputError(
                Code.SHAPE,
                "There are other columns than names",
                got=f"{x.shape[1]} columns, {len(names)} names",
            )
        floating = isinstance(raw, Tensor) and x.is_floating_point()
        x = x.clone() if floating else x.to(task.device, task.dtype)
        called = list(names or [f"column {i}" for i in range(x.shape[1])])
        labels = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        return Lifted(
            x=x,
            context=Context(),
            names=[f"sample {i}" for i in range(len(x))],
            units=(Units("column", labels, [called] * len(x)),),
        )
