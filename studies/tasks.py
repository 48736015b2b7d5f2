"""``python -m studies tasks TASK``: every method on a task's models by INS, DEL and explanations per second.

One table per model in the form of Table VI of the ABE paper, with bootstrap intervals, the passes of each
method, and a paired sign-flip test of each method against a random explainer. What cannot run is listed with its
code, and what was not run with the reason. Finished methods are kept: an interrupted run goes on where it was.
"""

import argparse
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import abe
from abe.errors import AbeError
from abe.explanation import versions
from abe.metrics.evaluation.statistics import EXACT, FLIPS, NOISE, holm, intervals, sign_flip
from abe.registry import Entry, methods
from abe.types import Result
from studies import benches, measuring
from studies.benches import Bench
from studies.outcome import Outcome, Table, record, show
from studies.records import Records
from studies.settings import called

RANDOM = "random"
METRICS = {"insertion": "higher", "deletion": "lower"}
LEVEL = 0.05
LIMITS = {"steps": 20, "samples": 10, "rounds": 10, "evaluations": 500, "search_steps": 10, "start": 100}
"""Largest values of parameters that cost passes; smaller defaults stay."""
LARGE_LIMITS = {**LIMITS, "steps": 10, "samples": 5, "rounds": 5, "evaluations": 200}
"""The same on large models."""
OPTIMISED = 100
"""Steps of methods that optimise a mask."""
CHOSEN = (
    *("gradient", "gradient_x_input", "fast_ig", "smoothgrad", "integrated_gradients", "expected_gradients"),
    *("guided_ig", "mfaba", "attexplore", "isa", "big", "agi", "la", "deeplift", "lrp_epsilon", "grad_cam"),
    *("chefer_relevance", "attention_rollout", "occlusion", "shapley", "lime", "rise"),
)
"""Methods for large models: those of Table V of the paper, and one or two of each other family."""
REASONS = {
    **dict.fromkeys(
        ("path_integral", "path_attribution", "removal", "channel_map"),
        "a family whose parts are given; members of it are rows",
    ),
    **dict.fromkeys(("smooth", "ensemble", "postprocess"), "a wrapper of other methods"),
    **dict.fromkeys(
        ("at_layer", "layer_conductance"), "explains a layer's output, and the curves change inputs"
    ),
    **dict.fromkeys(("rtis", "l2x", "cxplain"), "an explainer that must be trained on the model first"),
    "sage": "explains a data set, not a sample",
    "m2ib": "needs two towers and a layer in each",
    "daam": "needs the tokens of a prompt that an image was drawn from",
}
"""Why a method with required parameters is no row."""
LARGE = "minutes per model on a processor: name it in --methods"
SHORT = 1.0
"""Seconds below which explaining is timed again, and the shortest of three counts."""


@dataclass(frozen=True, eq=False)
class Random:
    """A map of normal numbers, drawn by sample: what an explanation without information scores."""

    def run(self, problem: Any) -> Result:
        """The map."""
        keys = [(sample, 0) for sample in problem.ids]
        drawn = problem.draws.normal("random explainer", keys, tuple(problem.x.shape[1:]))
        return Result(drawn.to(problem.x))


def limited(entry: Entry, few: bool) -> dict[str, Any]:
    """Parameters of a method that are smaller than its defaults, so that a table takes minutes.

    Args:
        entry: the method.
        few: whether it runs on a large model.
    """
    found = {}
    for name, parameter in entry.parameters().items():
        default = parameter.default
        most = (LARGE_LIMITS if few else LIMITS).get(name)
        if name == "steps" and "optimisation" in entry.card.needs:
            most = OPTIMISED
        if most is not None and type(default) is int and default > most:
            found[name] = most
    if few and entry.name == "shapley":
        found["evaluations"] = LARGE_LIMITS["evaluations"]
    return found


@dataclass(frozen=True)
class Row:
    """A method that is to be measured.

    Attributes:
        name: as it is registered.
        method: with its parameters.
        given: those that are not defaults.
    """

    name: str
    method: Any
    given: Mapping[str, Any]


def rows_of(
    wanted: Sequence[str] | None, few: bool, settings: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Row], dict[str, str]]:
    """What is to be measured, and why the others are not.

    Args:
        wanted: names; None for the default.
        few: whether the default is `CHOSEN`.
        settings: parameters of some methods.
    """
    known = {entry.name: entry for entry in methods.entries()}
    names = [methods.get(name).name for name in wanted if name != RANDOM] if wanted else list(known)
    out = {name: REASONS.get(name, "needs further arguments") for name in known if known[name].required()}
    if wanted is None and few:
        out |= {name: LARGE for name in known if name not in CHOSEN and name not in out}
    found = [Row(RANDOM, Random(), {})]
    for name in names:
        if name not in out:
            given = {**limited(known[name], few), **settings.get(name, {})}
            found.append(Row(name, abe.method(name, **given), given))
    return found, {name: why for name, why in out.items() if wanted is None or name in names}


def measured(bench: Bench, row: Row, step: float | None) -> dict[str, Any]:
    """Scores of a method on a bench, or why there are none; what is no error of ABE is a fault in it."""
    names = [*METRICS, "passes"]
    try:
        made = abe.evaluate(
            bench.task, {row.name: row.method}, names, data=bench.data, step=step, progress=False
        )
    except AbeError as problem:
        said = str(problem).removesuffix(f" [{problem.code.value}]")
        return {"code": problem.code.value, "says": " ".join(said.split())}
    except Exception as problem:
        return {"code": type(problem).__name__, "says": " ".join(str(problem).split())}
    scores = made.scores[row.name]
    found: dict[str, Any] = {name: measuring.rounded(scores[name].values) for name in METRICS}
    passes = float(scores["passes"].mean)
    own = made.origins[row.name].cost
    return {
        **found,
        "passes": passes if passes == passes else 0.0,
        "units": int(made.count),
        **timed(bench, row, own.seconds),
        "notes": sorted({_code(text) for text in made.origins[row.name].warnings} - {""}),
    }


def timed(bench: Bench, row: Row, known: float | None = None) -> dict[str, Any]:
    """Seconds that explaining the whole bench takes, and what else the machine did.

    Args:
        bench: what is explained.
        row: by what.
        known: seconds of a call that was made already.
    """
    seconds = [] if known is None else [known]
    while len(seconds) < 3 and (not seconds or min(seconds) < SHORT):
        seconds.append(abe.explain(bench.task, bench.data, row.method, progress=False).cost.seconds)
    return {
        "seconds": float(f"{min(seconds):.4g}"),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _code(text: str) -> str:
    """The code that ends a note."""
    return text.rsplit("[", 1)[-1].rstrip("]") if text.endswith("]") else ""


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


def outcome(task: str, samples: str, found: Sequence[Found]) -> Outcome:
    """Tables and sentences, from the numbers alone."""
    tables, findings = [], []
    for one in found:
        tests = one.tests()
        tables.append(_table(one, tests))
        findings += _sentences(one, tests)
    tables.append(_not_run(found))
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
        cells += [_rate(one.n / kept["seconds"]), f"{kept['passes']:.0f}"]
        cells += [_p(tests.get((name, metric))) for metric in METRICS]
        rows.append((name, *cells, one.given.get(name, "")))
    head = (
        "method",
        "INS ↑",
        "DEL ↓",
        "IPS ↑",
        "passes",
        "INS against random",
        "DEL against random",
        "set to",
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
        for name, (code, says) in one.failed.items():
            said.setdefault((name, code, says), []).append(one.model)
        for name, why in one.out.items():
            said.setdefault((name, "left out", why), []).append(one.model)
    rows = [
        (name, "all" if len(models) == len(found) else "; ".join(models), code, says)
        for (name, code, says), models in said.items()
    ]
    return Table("What is no row", ("method", "models", "code", "why"), sorted(rows))


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


def run(
    task: str,
    n: int,
    wanted: Sequence[str] | None,
    scratch: Path,
    folder: Path | None,
    *,
    quick: bool,
    time: bool,
) -> Outcome:
    """Measure what is missing, model by model, and make the tables of all that is known."""
    given = benches.toy(task) if quick else benches.TASKS[task]
    settings = {"study": f"tasks {task}", "n": n, "step": given.step, "quick": quick, "versions": versions()}
    records = Records(scratch / f"tasks-{task}{'-quick' * quick}-{n}.jsonl", settings)
    found = []
    for model, make in given.benches.items():
        rows, out = rows_of(wanted, model in given.few, given.settings)
        keys = {row.name: f"{model} | {row.name}({called(dict(row.given))})" for row in rows}
        missing = time or not all(key in records.found for key in (*keys.values(), f"{model} | about"))
        if missing:
            bench = make(n, folder)
            records.work(model, [(f"{model} | about", partial(str, bench.about))])
            parts = [(keys[row.name], partial(measured, bench, row, given.step)) for row in rows]
            records.work(model, parts)
            if time:
                _time_again(records, bench, rows, keys)
        kept = {row.name: records[keys[row.name]] for row in rows}
        found.append(
            Found(
                model=model,
                about=records[f"{model} | about"],
                n=n,
                scores={name: found for name, found in kept.items() if "code" not in found},
                given={row.name: called(dict(row.given)) for row in rows if row.given},
                failed={name: (k["code"], k["says"]) for name, k in kept.items() if "code" in k},
                out=out,
            )
        )
    return outcome(task, given.samples.format(n=n), found)


def _time_again(records: Records, bench: Bench, rows: Sequence[Row], keys: Mapping[str, str]) -> None:
    for row in rows:
        kept = records[keys[row.name]]
        if "code" not in kept:
            records.keep(keys[row.name], {**kept, **timed(bench, row)})


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


def write(task: str, made: Outcome, path: Path, about: dict[str, Any]) -> None:
    """``path``.json, and the same as tables in ``path``.md."""
    record(made, path, about)
    result = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    path.with_suffix(".md").write_text(markdown(result), encoding="utf-8")


def main(words: Sequence[str] | None = None) -> Outcome:
    """Measure one task and write its record and its tables."""
    options = _parser().parse_args(words)
    given = benches.TASKS[options.task]
    n = options.n or (4 if options.quick else given.n)
    wanted = [name.strip() for name in options.methods.split(",")] if options.methods else None
    made = run(
        options.task, n, wanted, options.scratch, options.stamps, quick=options.quick, time=options.time
    )
    command = f"python -m studies tasks {options.task} --n {n}"
    command += " --quick" * options.quick + (f" --methods {options.methods}" if wanted else "")
    command += " --stamps stamps" * (options.stamps is not None)
    day = max((k["day"] for one in again(made.values) for k in one.scores.values()), default="")
    path = options.out / f"tasks-{options.task}"
    write(options.task, made, path, {"study": f"tasks-{options.task}", "command": command, "day": day})
    show(made, Console())
    print(f"Written to {path}.json and .md")
    return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies tasks", description=__doc__)
    parser.add_argument("task", choices=tuple(benches.TASKS), metavar="TASK", help=", ".join(benches.TASKS))
    parser.add_argument("--n", type=int, help="how many samples")
    parser.add_argument("--methods", help="names, separated by commas; those that need no further argument")
    parser.add_argument("--time", action="store_true", help="measure seconds again, scores stay")
    parser.add_argument("--quick", action="store_true", help="untrained toys, in seconds: shows that it runs")
    parser.add_argument("--stamps", type=Path, help="where Tux Paint's stamps were unpacked")
    parser.add_argument("--out", type=Path, default=Path("out/studies"), help="for record and tables")
    parser.add_argument(
        "--scratch", type=Path, default=Path("out/studies"), help="for what is finished so far"
    )
    return parser
