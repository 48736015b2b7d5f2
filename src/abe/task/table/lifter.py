"""Table tasks: rows of numbers and categories, for modules, estimators and functions of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abe.checks import COUNT
from abe.errors import Code, InputError, SpecError, note
from abe.task.base import Context, Lifted, Task
from abe.task.lifted import Units, suits
from abe.task.outputs import OutputKind, class_names
from abe.task.table.black_box import BlackBox, Form, answers_of
from abe.task.table.cells import SHOWN, called
from abe.task.table.feeding import Feeding, OneRow, required, settle
from abe.task.table.rows import Background, Columns, Table, no_rows, opened
from abe.task.table.settings import background_of, bounds_of, by_column, check_bounds, columns_of
from abe.types import Fed
from abe.words import some

SUITS: dict[tuple[str, str | int | None], Any] = {
    **suits(baseline="background", removal="background_rows"),
    ("baseline", "blur"): "background",
    ("baseline", "uniform"): "background_rows",
    ("background", "uniform"): "background_rows",
    ("removal", "mean"): "background",
    ("max_units", 10): 16,
}
"""Defaults of methods and metrics on tables: columns, the background's typical row as the one reference, and
all background rows in turn in games of columns. Local surrogates, which count rows, take the typical row."""
MOST = 100
"""Background rows that stand in for absent columns, where nobody says otherwise."""
COALITIONS = 2000
"""Coalitions where a method counts rows by default: each is run with every background row."""
ROWS = "rows"
"""What further input of a function holds the rows."""


def table_task(
    model: Any,
    *,
    background: Any = None,
    columns: Sequence[Any] | None = None,
    categories: Any = None,
    groups: Any = None,
    inputs: Any = None,
    embeddings: Mapping[Any, str | Sequence[str]] | None = None,
    background_rows: int | None = MOST,
    bounds: tuple[Any, Any] | None = None,
    labels: Any = None,
    output: Any = None,
    output_kind: OutputKind = "auto",
) -> Task:
    """A task for a model that reads rows of a table: a module, an estimator, or any function of rows.

    Of a module, numbers and the vectors of embedded categories are explained, so that gradients, paths, rules
    and removals all apply. Of an estimator or function, columns are shown or not, so that removals apply.

    Args:
        model: a module that takes rows (b, columns), codes (b, k) and numbers (b, m), or an input per column;
            an estimator with ``predict_proba``, ``decision_function`` or ``predict``; or a function of rows,
            given in the form of the background.
        background: rows the model is used on, from which what is absent is taken: a DataFrame, an array
            (m, columns), a dict of columns, or a list of dicts.
        columns: names, in the order in which the model takes them; those of the background by default.
        categories: columns that hold categories: ``{"colour": ["red", "blue"]}`` with the names in the order
            of their codes, ``{"colour": 4}`` where they are codes 0 to 3, or a list of columns whose
            categories are learnt from the background (in the order of its categorical type, else sorted).
        groups: columns that are one to a person, such as a one-hot code: ``{"city": ["city_a", "city_b"]}``,
            places, or what their names begin with: ``{"city": "city_"}``.
        inputs: how a module takes a row, where trying leaves it open: ``"row"``, ``("codes", "numbers")``,
            ``("numbers", "codes")``, ``"codes"`` or ``"columns"``.
        embeddings: names of the modules that look categories up, by column; found by watching one run.
        background_rows: most background rows that stand in, spread evenly; None takes all.
        bounds: of the numbers of a module, one of each or one per column of numbers: what attacks and
            references may not leave. Vectors of categories are then bounded by those that there are.
        labels: class names; those of an estimator by default.
        output: where the class scores are, as for `abe.image_task`.
        output_kind: what they are, as for `abe.image_task`.

    Shape:
        a DataFrame with the same columns in any order, an array (b, columns), a dict of columns, one row (a
        Series, a dict of values, an array (columns,)), a list of rows, or the path of a file ``.csv``,
        ``.tsv`` or ``.parquet``; the background too.

    Raises:
        SpecError: unusable settings, or unknown columns.
        InputError: an unusable background.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Linear(2, 1)
        >>> rows = {"age": [20.0, 60.0], "income": [1.0, 3.0]}
        >>> task = abe.table_task(model, background=rows, output_kind="regression")
        >>> found = abe.explain(task, {"age": 50.0, "income": 2.0}, "shapley", progress=False)
        >>> [name for name, value in found.by_unit()[0]]
        ['age', 'income']
    """
    module = isinstance(model, nn.Module)
    background = opened(background)
    known = columns_of(background, columns, categories, groups, coded=module)
    if known is None and not module:
        raise SpecError(
            Code.BACKGROUND,
            "A function of rows is explained by showing columns of other rows, and there are none",
            fix="Pass background=, rows the model is used on",
        )
    if known is None and background is not None:
        raise no_rows(background)
    most = None if background_rows is None else COUNT.check("background_rows", background_rows)
    held = None if known is None or background is None else background_of(known, background, most)
    if not module and bounds is not None:
        raise SpecError(
            Code.BAD_PARAMETER, "A function of rows shows rows of the background, so it has no bounds"
        )
    if not module:
        return _outside(model, known, held, background, labels, output, output_kind)
    settings = _Settings(categories, groups, inputs, by_column(embeddings, known), bounds)
    lifter = TableLifter(columns=known, background=held, settings=settings)
    apart = known if known is not None and known.categories and known.numbers else None
    if apart is not None and (inputs == "row" or (inputs is None and required(model) == 1)):
        model = OneRow(model, tuple(apart.categories))
    return Task(
        model=model,
        modality="tabular",
        lifter=lifter,
        labels=class_names(labels),
        output=output,
        output_kind=output_kind,
        suits=_suits(held),
    )


def _suits(background: Background | None) -> dict[tuple[str, str | int | None], Any]:
    rows = 1 if background is None else len(background.rows)
    return {**SUITS, ("evaluations", COALITIONS): COALITIONS * rows}


def _outside(
    model: Any,
    columns: Columns | None,
    background: Background | None,
    given: Any,
    labels: Any,
    output: Any,
    output_kind: OutputKind,
) -> Task:
    """The task of a function of rows."""
    function, kind, names = answers_of(model)
    if columns is None or background is None:
        raise SpecError(
            Code.BACKGROUND,
            "A function of rows is explained by showing columns of other rows, and there are none",
            fix="Pass background=, rows the model is used on",
        )
    box = BlackBox(function, columns, background, Form(columns, given))
    return Task(
        model=box,
        modality="tabular",
        lifter=PresenceLifter(columns=columns, background=background),
        labels=class_names(names if labels is None else labels),
        output=output,
        output_kind=kind if output_kind == "auto" else output_kind,
        suits=_suits(background),
    )


@dataclass(frozen=True)
class _Settings:
    """What waits for the first rows: settings of a task whose columns nobody named yet."""

    categories: Any
    groups: Any
    inputs: Any
    embeddings: Mapping[Any, str | Sequence[str]]
    bounds: tuple[Any, Any] | None


@dataclass(frozen=True, eq=False)
class TableLifter:
    """Turns rows into (b, D) vectors of categories and numbers."""

    columns: Columns | None
    background: Background | None
    settings: _Settings
    _feedings: list[Feeding] = field(default_factory=list[Feeding], repr=False)
    _named: list[Columns] = field(default_factory=list[Columns], repr=False)

    def __call__(self, task: Task, raw: Any) -> Lifted:
        columns = self.columns or self._first(raw)
        table = columns.read(raw)
        rows = _on(task, table.rows)
        before = self._known_feeding(task)
        feeding = before or self.feeding(task, columns, rows)
        if feeding.bounds is not None:
            check_bounds(feeding.bounds, columns, table)
        x = feeding.features(rows)
        unit_of = columns.unit_of()
        labels = torch.tensor([unit_of[place] for place in feeding.places(rows)], device=x.device)
        lifted = _lifted(
            columns, table, x, labels, feeding.context(rows), feeding.parts(rows), self._notes(columns, raw)
        )
        return lifted if before else replace(lifted, rows=feeding.rows)

    def feeding(self, task: Task, columns: Columns, rows: Tensor) -> Feeding:
        """How the model is fed, settled at the first rows that it reads."""
        known = self._known_feeding(task)
        if known is None:
            held = self.settings
            bounds = None if held.bounds is None else bounds_of(held.bounds, columns)
            known = settle(task, columns, rows, held.inputs, held.embeddings)
            known = replace(known, bounds=bounds)
            self._feedings.append(known)
        return known

    def _known_feeding(self, task: Task) -> Feeding | None:
        """What was settled for a model, whose embeddings are the ones that were found."""
        inside = set(task.model.modules())
        return next((one for one in self._feedings if all(k.module in inside for k in one.lookups)), None)

    def references(self, task: Task) -> Tensor:
        """(m, D) features of all background rows.

        Raises:
            SpecError: the task has no background.
        """
        columns, background = self._known()
        rows = _on(task, background.rows)
        return self.feeding(task, columns, rows).features(rows)

    def reference(self, task: Task) -> Tensor:
        """(D,) features of the typical background row.

        Raises:
            SpecError: the task has no background.
        """
        columns, background = self._known()
        rows = _on(task, background.typical[None])
        return self.feeding(task, columns, rows).features(rows)[0]

    def row(self, task: Task, raw: Any) -> Tensor:
        """(D,) features of a row of one's own.

        Raises:
            InputError: it is no row of this table.
        """
        columns = self.columns or self._first(raw)
        rows = _on(task, _single(columns, raw))
        return self.feeding(task, columns, rows).features(rows)[0]

    def fed(self, task: Task, rows: Tensor) -> Fed:
        """Rows (n, columns) as the model is run on them."""
        columns, _ = self._known()
        feeding = self.feeding(task, columns, rows)
        return Fed(feeding.features(rows), feeding.context(rows).values)

    def _known(self) -> tuple[Columns, Background]:
        if self.columns is None or self.background is None:
            raise SpecError(
                Code.BACKGROUND,
                "Nothing says what stands where a column is absent",
                got="a table task without a background",
                fix="Pass background= to table_task, rows the model is used on; or name a reference, such as "
                'baseline="zero" where zero means nothing',
            )
        return self.columns, self.background

    def _first(self, raw: Any) -> Columns:
        """The columns of a task that was given none: those of the first rows."""
        if not self._named:
            known = columns_of(raw, None, self.settings.categories, self.settings.groups, coded=True)
            if known is None:
                raise no_rows(raw)
            self._named.append(known)
        return self._named[0]

    def _notes(self, columns: Columns, raw: Any) -> tuple[str, ...]:
        learnt_ones = [one for one in columns.categories.values() if one.learnt]
        told = (() if self.background is None else self.background.notes) + columns.told(raw)
        return told + tuple(
            note(
                Code.CATEGORY,
                f"The categories of {called(one.column)!r} were numbered in sorted order: "
                + some([f"{name} {code}" for code, name in enumerate(one.names)], SHOWN),
            )
            for one in learnt_ones
        )


@dataclass(frozen=True, eq=False)
class PresenceLifter:
    """Turns rows into (b, units) presence of their columns, for a function of rows."""

    columns: Columns
    background: Background

    def __call__(self, task: Task, raw: Any) -> Lifted:
        table = self.columns.read(raw)
        x = torch.ones((len(table.rows), len(self.columns.units)), dtype=task.dtype)
        context = Context({ROWS: torch.from_numpy(table.rows)})
        told = self.background.notes + self.columns.told(raw)
        return _lifted(self.columns, table, x, torch.arange(x.shape[1]), context, (), told)

    def references(self, task: Task) -> Tensor:
        """(m, units) what shows every column of one background row."""
        m, units = len(self.background.rows), len(self.columns.units)
        return -1 - torch.arange(m, dtype=task.dtype)[:, None].expand(m, units)

    def reference(self, task: Task) -> Tensor:
        """(units,) what shows the typical row."""
        return torch.zeros(len(self.columns.units), dtype=task.dtype)

    def fed(self, task: Task, rows: Tensor) -> Fed:
        """Rows (n, columns), all columns of which are shown."""
        return Fed(torch.ones((len(rows), len(self.columns.units)), dtype=task.dtype), {ROWS: rows})

    def row(self, task: Task, raw: Any) -> Tensor:
        """(units,) what shows a row of one's own, which is a row of the background.

        Raises:
            SpecError: it is none.
        """
        wanted = _single(self.columns, raw)
        same = (self.background.rows == wanted).all(1).nonzero()[0]
        if not len(same):
            raise SpecError(
                Code.UNSUPPORTED,
                "A function from outside is shown columns of its background, and this row is not in it",
                got=some(f"{name} {value}" for name, value in self.columns.values(wanted[0]).items()),
                fix="Add the row to background=, or make it the only one",
            )
        return self.references(task)[int(same[0])]


def _lifted(
    columns: Columns, table: Table, x: Tensor, labels: Tensor, context: Context, parts: Any, notes: Any
) -> Lifted:
    names = [name for name, _ in columns.units]
    return Lifted(
        x=x,
        context=context,
        names=table.names,
        parts=parts,
        notes=notes,
        units=(Units("column", labels[None].expand(len(x), -1), [names] * len(x)),),
        shown=[columns.values(row) for row in table.rows],
    )


def _single(columns: Columns, raw: Any) -> np.ndarray:
    rows = columns.read(raw).rows
    if len(rows) == 1:
        return rows
    raise InputError(Code.BASELINE_SHAPE, "One row is a reference", got=f"{len(rows)} rows", expected="1 row")


def _on(task: Task, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(rows).to(task.device)
