"""What `abe.recommend` returns: who may be the best, how surely, and what to call."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from abe import storage, words, writers
from abe.errors import Code, SpecError
from abe.theory.ranking import Ranking
from abe.types import Direction


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method of the race.

    Attributes:
        name: told apart from namesakes by its parameters.
        spec: its specification; None for a control.
        call: the line of Python that explains by it.
        seconds: per sample, its explanations and all that was measured of them.
        status: ``"finished"``, ``"dropped"``, ``"set aside"``, ``"failed"`` or ``"control"``.
        why: after how many samples, what it costs, or the error.
        self_graded: criteria that it maximises itself.
        notes: what its explanations said of themselves.
    """

    name: str
    spec: Mapping[str, Any] | None
    seconds: float
    status: str
    call: str = ""
    why: str = ""
    self_graded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One criterion at the end of the race.

    Attributes:
        criterion: name of the metric.
        direction: which values are better.
        setting: under which it was measured.
        ranking: of the methods that saw all samples, and of controls.
        behind: per method of the ranking, the interval of how far its mean lies behind the largest; all hold
            together.
        before: by method that dropped out, its mean and the samples that it saw.
        agrees: by setting, whether the same method may be the best there.
        joint: p that no method is better than the leader in any setting, tested together.
    """

    criterion: str
    direction: Direction
    setting: str
    ranking: Ranking
    behind: tuple[tuple[float, float], ...]
    before: Mapping[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])
    agrees: Mapping[str, bool] = field(default_factory=dict[str, bool])
    joint: float = math.nan

    def eligible(self, controls: Sequence[str], barred: Sequence[str]) -> list[str]:
        """Names in the set of the best, best mean first, but controls and methods that judge themselves."""
        return [name for name in self.ranking.leaders if name not in controls and name not in barred]

    def needed(self, first: str, second: str) -> int | None:
        """About how many samples would tell two methods apart, or say that they are equivalent; None if done.

        The half-width of the interval falls with the root of their number and has to reach the margin.
        """
        if self.ranking.pair(first, second).verdict != "not told apart":
            return None
        low, high = self.behind[self.ranking.names.index(second)]
        half, margin = (high - low) / 2, self.ranking.margin
        if not (math.isfinite(half) and margin > 0):
            return None
        return max(self.ranking.samples + 1, math.ceil(self.ranking.samples * (half / margin) ** 2))


@dataclass(kw_only=True)
class Recommendation:
    """Which method to believe for this model and these samples.

    Attributes:
        standings: per criterion, the one that decides first.
        candidates: all methods and controls.
        front: names of the methods that no other dominates over all criteria, as far as can be told.
        samples: how many were used, of how many.
        available: how many there were.
        looks: samples at which the race was looked at.
        seconds: wall time; ``budget`` of them were allowed.
        interrupted: whether the user ended it.
        criteria: name of the preset, or ``"own"``.
        objective, seed, confidence: as asked for.
        names: of the samples used.
        warnings: what limits the statement.
    """

    standings: tuple[Standing, ...]
    candidates: tuple[Candidate, ...]
    front: tuple[str, ...]
    samples: int
    available: int
    looks: tuple[int, ...]
    seconds: float
    budget: float
    interrupted: bool
    criteria: str
    objective: str
    seed: int
    confidence: float
    names: list[str]
    warnings: list[str] = field(default_factory=list[str])

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of explainers that know nothing of the model."""
        return tuple(one.name for one in self.candidates if one.status == "control")

    @property
    def best(self) -> tuple[str, ...]:
        """Methods that may be the best by the first criterion, the best mean first."""
        first = self.standings[0]
        return tuple(first.eligible(self.controls, self._barred(first.criterion)))

    @property
    def choice(self) -> str | None:
        """The method to call: the first of those that may be the best which no other dominates."""
        for name in self.best:
            if name in self.front:
                return name
        return self.best[0] if self.best else None

    @property
    def sentence(self) -> str:
        """The recommendation in words that a person can act on."""
        first, chosen = self.standings[0], self.choice
        by = f"By {first.criterion} on {_counted(self.samples)} ({100 * self.confidence:g} %)"
        if chosen is None:
            return f"{by} no method is told from an explainer that knows nothing of the model; {self._more()}"
        blind = [one for one in self.controls if one in first.ranking.leaders]
        text = f"{by} {self._standing(first, chosen)}"
        if blind:
            text += (
                f" But {words.some(blind)} may be as good, which knows nothing of the model: {self._more()}"
            )
        return text + self._settled(first)

    @property
    def call(self) -> str:
        """The line of Python that explains by the method to believe."""
        return next((one.call for one in self.candidates if one.name == self.choice), "")

    def __str__(self) -> str:
        return self.sentence

    def __repr__(self) -> str:
        told = [
            ("believe", self.choice or "none"),
            ("may be the best", words.some(self.best)),
            ("criteria", words.some(one.criterion for one in self.standings)),
            ("samples", f"{self.samples} of {self.available}, {self.seconds:.0f} s of {self.budget:.0f} s"),
            ("call", self.call),
        ]
        return words.card(f"Recommendation of {len(self.candidates)} explainers", told, self.warnings)

    def table(self) -> Any:
        """A `rich.table.Table`: per method the mean, rank interval and place in the set of the best."""
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table

        table = Table(
            box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, caption=self.sentence, caption_justify="left"
        )
        table.add_column("method", overflow="fold")
        for one in self.standings:
            table.add_column(f"{one.criterion} {'↑' if one.direction == 'higher' else '↓'}", justify="right")
            table.add_column("rank", justify="right")
        table.add_column("s/sample", justify="right")
        table.add_column("")
        for one in self._ordered():
            cells = [cell for standing in self.standings for cell in _cells(standing, one)]
            said = (
                one.status if one.status != "finished" else ("on the front" if one.name in self.front else "")
            )
            cost = "–" if math.isnan(one.seconds) else f"{one.seconds:.2g}"
            table.add_row(escape(one.name), *cells, cost, escape(f"{said} {one.why}".strip()))
        return table

    def plot(self, path: str | Path | None = None) -> Any:
        """A figure: how far every method may lie behind the best, and both first criteria against each other.

        Args:
            path: also write the figure there.
        """
        from abe.report.choosing import plot_recommendation

        return plot_recommendation(self, path=path)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, numbers that are not finite as null."""
        told = {
            "format": "abe-recommendation",
            "sentence": self.sentence,
            "call": self.call,
            "choice": self.choice,
            "best": list(self.best),
            **{key: value for key, value in asdict(self).items() if key not in ("standings", "candidates")},
            "standings": [asdict(one) for one in self.standings],
            "candidates": [asdict(one) for one in self.candidates],
        }
        return storage.without_gaps(told)

    def save(self, path: str | Path) -> Path:
        """Write `to_dict` as JSON.

        Args:
            path: of a file that ends in ``.json``.

        Raises:
            SpecError: another ending.
        """
        file = Path(path)
        if file.suffix != ".json":
            raise SpecError(
                Code.BAD_PARAMETER, "A recommendation is saved as JSON", got=file.name, expected="*.json"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        writers.replace(file, (text + "\n").encode())
        return file

    # --- words ------------------------------------------------------------------------------------------

    def _standing(self, first: Standing, chosen: str) -> str:
        others = [name for name in first.ranking.names if name not in (*self.controls, chosen)]
        rivals = [name for name in self.best if name != chosen]
        if not rivals:
            against = (
                f"than the {len(others)} others that were measured" if others else "than no other method"
            )
            return (
                f"believe {chosen}: it is better {against}."
                if others
                else f"{chosen} is the only method left."
            )
        pairs = {name: first.ranking.pair(chosen, name) for name in rivals}
        same = [name for name in rivals if pairs[name].verdict == "equivalent"]
        open_ = [name for name in rivals if pairs[name].verdict == "not told apart"]
        text = f"the best is one of {words.some([chosen, *rivals])}."
        if same:
            text += f" {chosen} and {words.some(same)} are equivalent within {first.ranking.margin:.2g}."
        if open_:
            wanted = [n for name in open_ if (n := first.needed(chosen, name)) is not None]
            more = f"; about {_rounded(max(wanted))} samples would" if wanted else ""
            verb = "are" if len(open_) > 1 else "is"
            text += f" {words.some(open_)} {verb} not told apart from {chosen}{more}."
        reason = (
            "has the best mean"
            if chosen == rivals[0] or self.best[0] == chosen
            else "is on the front of all criteria"
        )
        return f"{text} Take {chosen}, which {reason}."

    def _settled(self, first: Standing) -> str:
        if len(first.agrees) < 2:
            return ""
        held = sum(first.agrees.values())
        turned = [name for name, agrees in first.agrees.items() if not agrees]
        told = f" This holds in {held} of {len(first.agrees)} settings"
        return told + (f"; {words.some(turned)} turns it." if turned else ".")

    def _more(self) -> str:
        return "more samples or another criterion may." if self.samples < 64 else "another criterion may."

    def _barred(self, criterion: str) -> list[str]:
        return [one.name for one in self.candidates if criterion in one.self_graded]

    def _ordered(self) -> list[Candidate]:
        first = self.standings[0].ranking
        sign = 1 if self.standings[0].direction == "higher" else -1
        means = dict(zip(first.names, first.means, strict=True))
        means |= {name: mean for name, (mean, _) in self.standings[0].before.items()}
        return sorted(self.candidates, key=lambda one: -sign * means.get(one.name, -sign * math.inf))


def _cells(standing: Standing, one: Candidate) -> tuple[str, str]:
    if one.name in standing.before:
        mean, n = standing.before[one.name]
        return f"[dim]{mean:.3g} ({n})[/]", ""
    if one.name not in standing.ranking.names:
        return "–", ""
    at = standing.ranking.names.index(one.name)
    low, high = standing.ranking.ranks[at]
    mark = " ●" if standing.ranking.best[at] else ""
    graded = " self-graded" if standing.criterion in one.self_graded else ""
    return f"{standing.ranking.means[at]:.3g}{mark}{graded}", f"{low}" if low == high else f"{low}–{high}"


def _rounded(n: int) -> str:
    """Two digits are all that such a number is good for."""
    size = 10 ** max(0, len(str(n)) - 2)
    return f"{math.ceil(n / size) * size:,}"


def _counted(n: int) -> str:
    return f"{n} samples" + ("" if n >= 32 else ", approximately")
