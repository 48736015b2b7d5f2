"""What generated tokens rest on, as a table to print, to plot, or to put on a page."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from abe.errors import Code, InputError
from abe.terminal import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Generated:
    """What every generated token of one prompt rests on.

    Attributes:
        rows: what the generated tokens are called, or one answer.
        columns: the units of the prompt, then those of the answer.
        values: (m, u) the share of every unit; NaN where it comes behind the token.
        border: how many of the columns are the prompt's.
        last: the column that holds the last token of the prompt, where the first token is read; or None.
        score: (m,) the explained scores.
        probability: (m,) of the tokens; None where it is not known.
        entropy: (m,) of the steps in nats; None where it is not known.
        title: the method and the score.
    """

    rows: list[str]
    columns: list[str]
    values: NDArray[np.float64]
    border: int
    last: int | None
    score: NDArray[np.float64]
    probability: NDArray[np.float64] | None
    entropy: NDArray[np.float64] | None
    title: str

    @classmethod
    def of(cls, explanation: Any, prompt: int | None = None) -> "Generated":
        """The table of one prompt of an explanation.

        Raises:
            InputError: nothing was generated, there are several prompts and none is named, or no such.
        """
        asked = explanation.diagnostics.get("prompt")
        if asked is None or explanation.labels is None:
            raise InputError(
                Code.UNITS,
                "Nothing was generated from these inputs",
                got=f"inputs of the modality {explanation.modality!r}",
                fix="Use by_unit(); abe.language_task explains generated tokens",
            )
        numbers: list[int] = sorted(set(asked.tolist()))
        if (prompt is None and len(numbers) > 1) or (prompt is not None and prompt not in numbers):
            raise InputError(
                Code.SAMPLES,
                "Say of which prompt" if prompt is None else f"There is no prompt {prompt}",
                got=f"{len(numbers)} prompts",
                expected=f"table({numbers[0]}) to table({numbers[-1]})",
            )
        chosen = numbers[0] if prompt is None else prompt
        return _table(explanation[(asked == chosen).nonzero().flatten().tolist()])

    def shares(self, row: int) -> list[tuple[str, float]]:
        """The units of one generated token with their shares."""
        own = self.values[row]
        return [(n, float(v)) for n, v in zip(self.columns, own, strict=True) if np.isfinite(v)]

    @property
    def bound(self) -> float:
        """The magnitude that is shown at full strength."""
        return float(np.nanmax(np.abs(self.values), initial=0.0)) or 1.0

    def head(self, column: int) -> str:
        """What a column is called; the last token of the prompt is marked."""
        return f"{self.columns[column]}{' *' if column == self.last else ''}"

    def __str__(self) -> str:
        from abe.report.printed import told_of_table

        return told_of_table(self)

    def html(self, path: str | Path | None = None) -> str:
        """A page with the table: numbers in every cell and on hovering, every text escaped.

        Args:
            path: also write the page there.

        Raises:
            StorageError: the file cannot be written.
        """
        from abe.report.generated import page
        from abe.storage import write

        made = page(self)
        if path is not None:
            write(Path(path), made.encode("utf-8"))
        return made

    def plot(self, path: str | Path | None = None) -> "Figure":
        """A heat map, also written to ``path`` if given."""
        from abe.report.heat import draw

        return draw([self], path=path)


def _table(own: Any) -> Generated:
    longest = max(range(len(own)), key=lambda i: len(own.unit_names[i]))
    columns = [readable(name) for name in own.unit_names[longest]]
    values = np.full((len(own), len(columns)), np.nan)
    for row, listed in enumerate(own.by_unit()):
        count = len(own.unit_names[row])
        values[row, :count] = [share for _, share in listed[:count]]
    labels = own.labels[longest].flatten()
    end = int(own.diagnostics["prompt_end"][0])
    inside = labels[: end + 1]
    last = int(labels[end])
    told = {name: own.diagnostics.get(f"step_{name}") for name in ("probability", "entropy")}
    return Generated(
        rows=[readable(name) for name in own.target_names],
        columns=columns,
        values=values,
        border=int(inside.max()) + 1,
        last=last if last >= 0 else None,
        score=_array(own.score),
        probability=None if told["probability"] is None else _array(told["probability"]),
        entropy=None if told["entropy"] is None else _array(told["entropy"]),
        title=f"{own.method}, {readable(own.objective)}",
    )


def tables(explanation: Any) -> list[Generated]:
    """The tables of all prompts."""
    asked = explanation.diagnostics.get("prompt")
    numbers: list[int] = [] if asked is None else sorted(set(asked.tolist()))
    return [Generated.of(explanation, number) for number in numbers]


def steps(explanation: Any) -> dict[str, Any]:
    """(b,) by name what the model says at every step, whichever method explains it.

    Raises:
        InputError: nothing was generated.
    """
    found = {
        name.removeprefix("step_"): value
        for name, value in explanation.diagnostics.items()
        if name in ("step_probability", "step_entropy")
    }
    if "prompt" not in explanation.diagnostics:
        raise InputError(
            Code.UNITS,
            "Nothing was generated from these inputs, so there are no steps",
            got=f"inputs of the modality {explanation.modality!r}",
        )
    return found


def _array(tensor: Any) -> NDArray[np.float64]:
    return tensor.detach().double().cpu().numpy()
