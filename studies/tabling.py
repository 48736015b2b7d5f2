"""Tables and sentences of `studies.tasks`, made from the numbers of a record alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from abe.metrics.evaluation.statistics import EXACT, FLIPS, NOISE, holm, intervals, sign_flip
from studies.outcome import Outcome, Table, record

RANDOM = "random"
"""The row that the others are held against."""
METRICS = {"insertion": "higher", "deletion": "lower"}
LEVEL = 0.05
"""Of p, corrected for all tests of a model."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is known of one model.

    Attributes:
        model: its name.
        about: what it learnt, and how often it is right.
        n: samples.
        scores: by method, with `RANDOM`.
        given: parameters that are not defaults, by method.
        failed: code and sentence of what cannot run.
        out: why others were not run.
    """

    model: str
    about: str
    n: int
    scores: dict[str, dict[str, Any]]
    given: dict[str, str]
    failed: dict[str, tuple[str, str]]
    out: dict[str, str]

    @property
    def order(self) -> list[str]:
        """Methods by INS − DEL, best first."""
        return sorted(self.scores, key=lambda m: self.mean(m, "deletion") - self.mean(m, "insertion"))

    def mean(self, method: str, metric: str) -> float:
        """Mean over samples to which the metric applies."""
        return float(torch.tensor(_numbers(self.scores[method][metric])).nanmean())

    def values(self, metric: str) -> torch.Tensor:
        """(n, methods) in the order of the table; NaN where the metric does not apply."""
        columns = [_numbers(self.scores[name][metric]) for name in self.order]
        return torch.tensor(columns, dtype=torch.float64).T

    def tests(self) -> dict[tuple[str, str], tuple[float, str]]:
        """Corrected p and verdict of every method against random by both metrics.

        Sign flips of the paired differences, of which those within rounding count as none; Holm's correction
        is for all tests of the model.
        """
        names = [name for name in self.order if name != RANDOM]
        if RANDOM not in self.scores or not names:
            return {}
        keys = [(name, metric) for metric in METRICS for name in names]
        gaps = torch.cat([self._gaps(metric) for metric in METRICS], 1)
        corrected = holm(sign_flip(gaps, smallest=LEVEL / len(keys)))
        reachable = self.smallest * len(keys) <= LEVEL
        found = {}
        for key, p, difference in zip(keys, corrected, gaps.nanmean(0).tolist(), strict=True):
            verdict = "better" if (difference > 0) == (METRICS[key[1]] == "higher") else "worse"
            found[key] = p, ("" if p > LEVEL else verdict) if reachable else "too few samples"
        return found

    def _gaps(self, metric: str) -> torch.Tensor:
        """(n, methods but random) each minus random."""
        values, place = self.values(metric), self.order.index(RANDOM)
        drawn = values[:, [place]]
        gap = values - drawn
        gap = torch.where(gap.abs() <= NOISE * torch.maximum(values.abs(), drawn.abs()), 0.0, gap)
        return torch.cat([gap[:, :place], gap[:, place + 1 :]], 1)

    @property
    def smallest(self) -> float:
        """The smallest p of one test: all signs alike, among all patterns or those that are drawn."""
        return 2.0 ** (1 - self.n) if self.n <= EXACT else 1 / (1 + FLIPS)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def outcome(samples: str, found: Sequence[Found]) -> Outcome:
    """Tables and sentences, from the numbers alone."""
    tables, findings = [], []
    for one in found:
        if not one.scores:
            continue
        tests = one.tests()
        tables.append(_table(one, tests))
        findings += _sentences(one, tests)
    if (rest := _not_run(found)).rows:
        tables.append(rest)
    values = {
        one.model: {
            "about": one.about,
            "n": one.n,
            "scores": one.scores,
            "given": one.given,
            "failed": one.failed,
            "out": one.out,
        }
        for one in found
    }
    caption = f"INS, DEL and explanations per second (IPS) on {samples}"
    return Outcome(tables=tables, findings=[*findings, _clock(found)], values=values, caption=caption)


def again(values: Mapping[str, Any]) -> list[Found]:
    """What a record holds of its models."""
    fields = ("about", "n", "scores", "given", "out")
    return [
        Found(
            model=model,
            failed={name: (code, says) for name, (code, says) in kept["failed"].items()},
            **{name: kept[name] for name in fields},
        )
        for model, kept in values.items()
    ]


def _table(one: Found, tests: Mapping[tuple[str, str], tuple[float, str]]) -> Table:
    spans = {metric: intervals(one.values(metric)) for metric in METRICS}
    rows = []
    for place, name in enumerate(one.order):
        kept = one.scores[name]
        cells = [
            f"{one.mean(name, m):.3f} [{spans[m][place][0]:.3f}, {spans[m][place][1]:.3f}]" for m in METRICS
        ]
        cells += [f"{value:.2f}" for value in kept.get("further", {}).values()]
        cells += [_rate(one.n / kept["seconds"]), f"{kept['passes']:.0f}"]
        cells += [_p(tests.get((name, metric))) for metric in METRICS]
        rows.append((name, *cells, one.given.get(name, ""), ", ".join(kept.get("notes", []))))
    head = (
        "method",
        "INS ↑",
        "DEL ↓",
        *next((list(kept["further"]) for kept in one.scores.values() if "further" in kept), []),
        "IPS ↑",
        "passes",
        "INS against random",
        "DEL against random",
        "set to",
        "notes",
    )
    count = len(tests)
    note = (
        f"n = {one.n}, {one.about}. p by sign flips, corrected by Holm for {count} tests; one test can "
        f"go down to {one.smallest:.2g}, corrected {min(1.0, one.smallest * max(1, count)):.2g}."
    )
    return Table(one.model, head, rows, note)


def _p(test: tuple[float, str] | None) -> str:
    return "" if test is None else f"{test[0]:.2g} {test[1]}".strip()


def _rate(rate: float) -> str:
    return f"{rate:.3g}" if rate < 1000 else f"{rate:.0f}"


def _not_run(found: Sequence[Found]) -> Table:
    """Who cannot run and who was not run, with what stands behind it; equal sentences once."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        if not one.scores and not one.failed:
            said.setdefault(("every method", "left out", "not measured yet"), []).append(one.model)
            continue
        for name, (code, says) in one.failed.items():
            said.setdefault((name, code, says), []).append(one.model)
        for name, why in one.out.items():
            said.setdefault((name, "left out", why), []).append(one.model)
    names: dict[tuple[str, str, str], list[str]] = {}
    for (name, code, says), models in said.items():
        where = "all" if len(models) == len(found) else "; ".join(models)
        names.setdefault((where, code, says), []).append(name)
    rows = [(", ".join(some), *key) for key, some in names.items()]
    return Table("What is no row", ("method", "models", "code", "why"), sorted(rows, key=lambda row: row[2]))


def _sentences(one: Found, tests: Mapping[tuple[str, str], tuple[float, str]]) -> list[str]:
    """How many methods are told from random, which are worse, and which are best."""
    if not tests:
        return []
    names = [name for name in one.order if name != RANDOM]

    def those(metric: str, verdict: str) -> list[str]:
        return [name for name in names if tests[name, metric][1] == verdict]

    most, best_in = max((one.mean(name, "insertion"), name) for name in names)
    least, best_out = min((one.mean(name, "deletion"), name) for name in names)
    best = f"The largest mean INS is {most:.3f} ({best_in}), the smallest mean DEL {least:.3f} ({best_out})."
    found = [
        f"{one.model}: of {len(names)} methods {len(those('insertion', 'better'))} insert and "
        f"{len(those('deletion', 'better'))} delete better than a random explainer (corrected p ≤ {LEVEL}, "
        f"n = {one.n}). {best}"
    ]
    if "too few samples" in {verdict for _, verdict in tests.values()}:
        found = [
            f"{one.model}: {one.n} samples are too few to tell {len(names)} methods from random after the "
            f"correction. {best}"
        ]
    for metric, word in (("insertion", "inserts"), ("deletion", "deletes")):
        if worse := those(metric, "worse"):
            found.append(f"{one.model}: worse than random, by the same rule, {word}: {', '.join(worse)}.")
    behind = [name for name in names if _behind(one, name)]
    if behind:
        found.append(
            f"{one.model}: both means are worse than random's, be it by chance, for {', '.join(behind)}."
        )
    return found


def _behind(one: Found, name: str) -> bool:
    inserts = one.mean(name, "insertion") < one.mean(RANDOM, "insertion")
    return inserts and one.mean(name, "deletion") > one.mean(RANDOM, "deletion")


def _clock(found: Sequence[Found]) -> str:
    """Whether the rates were measured on a quiet machine."""
    kept = [scores for one in found for scores in one.scores.values()]
    loads = [k["load"] for k in kept]
    if not kept:
        return "Nothing was measured."
    threads = max(k["threads"] for k in kept)
    of = f"{threads} thread{'s' * (threads > 1)} on a processor, all samples in one call"
    if max(loads) <= threads + 0.5:
        return f"IPS: {of}, nothing else running (load at most {max(loads):g})."
    return (
        f"IPS were measured beside other work (load {min(loads):g} to {max(loads):g}, {of}): "
        "they are too small and say little of the order; --time measures them again."
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The tables of a record as a part of a page."""
    made = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [
        f"```console\n$ {result['command']}\n```",
        f"{result['caption']}. Finished on {result['day']}, {made}.",
    ]
    parts.append("\n".join(f"- {_plain(finding)}" for finding in result["findings"]))
    for table in result["tables"]:
        lines = [
            f"**{_plain(table['title'])}**",
            "",
            _line(table["head"]),
            _line(["---"] * len(table["head"])),
        ]
        lines += [_line(cells) for cells in table["rows"]]
        parts.append("\n".join([*lines, *(["", _plain(table["note"])] if table["note"] else [])]))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text in which nothing is markup."""
    for sign in "\\`*_[]<>$":
        text = text.replace(sign, "\\" + sign)
    return text


def write(made: Outcome, path: Path, about: dict[str, Any]) -> None:
    """``path``.json, and the same as tables in ``path``.md."""
    record(made, path, about)
    result = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    path.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
