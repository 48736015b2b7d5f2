"""``python -m studies tasks TASK``: every method on a task's models by INS, DEL and explanations per second.

One table per model in the form of Table VI of the ABE paper, with bootstrap intervals, the passes of each
method, and a paired sign-flip test of each method against a random explainer. What cannot run is listed with
its code, and what was not run with the reason. Finished methods are kept: an interrupted run goes on where it
was.
"""

import argparse
import datetime
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
from abe.registry import Entry, methods
from abe.types import Result
from studies import benches, measuring
from studies.benches import Bench, Series
from studies.outcome import Outcome, show
from studies.records import Records
from studies.settings import called
from studies.tabling import METRICS, RANDOM, Found, again, outcome, write

LIMITS = {"steps": 20, "samples": 10, "rounds": 10, "evaluations": 500, "search_steps": 10, "start": 100}
"""Largest values of parameters that cost passes; smaller defaults stay."""
LARGE_LIMITS = {**LIMITS, "steps": 10, "samples": 5, "rounds": 5, "evaluations": 200}
"""The same on large models."""
OPTIMISED = 100
"""Steps of methods that optimise a mask."""
CHOSEN = (
    *("gradient_x_input", "integrated_gradients", "gradient", "fast_ig", "chefer_relevance", "grad_cam"),
    *("attention_rollout", "deeplift", "lrp_epsilon", "occlusion", "expected_gradients", "smoothgrad", "agi"),
    *("mfaba", "lime", "shapley", "rise", "la", "attexplore", "big", "guided_ig", "isa"),
)
"""Methods for large models: those of Table V of the paper and some of each other family, cheap ones first."""
REASONS = {
    **dict.fromkeys(
        ("path_integral", "path_attribution", "removal", "channel_map"),
        "a family whose parts are given; members of it are rows",
    ),
    **dict.fromkeys(("smooth", "ensemble", "postprocess", "over_references"), "a wrapper of other methods"),
    **dict.fromkeys(
        ("at_layer", "layer_conductance"), "explains a layer's output, and the curves change inputs"
    ),
    **dict.fromkeys(("rtis", "l2x", "cxplain"), "an explainer that must be trained on the model first"),
    "sage": "explains a data set, not a sample",
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
    wanted: Sequence[str] | None,
    few: bool,
    settings: Mapping[str, Mapping[str, Any]],
    also: Sequence[str] = (),
) -> tuple[list[Row], dict[str, str]]:
    """What is to be measured, and why the others are not.

    Args:
        wanted: names; None for the default.
        few: whether the default is `CHOSEN`.
        settings: parameters of some methods.
        also: names beside `CHOSEN`.
    """
    known = {entry.name: entry for entry in methods.entries()}
    first = dict.fromkeys((*CHOSEN, *known))  # what an interrupted run should have
    names = [methods.get(name).name for name in wanted if name != RANDOM] if wanted else list(first)
    out = {name: REASONS.get(name, "needs further arguments") for name in known if known[name].required()}
    if wanted is None and few:
        out |= {name: LARGE for name in known if name not in (*CHOSEN, *also) and name not in out}
    found = [Row(RANDOM, Random(), {})]
    for name in names:
        if name not in out:
            given = {**limited(known[name], few), **settings.get(name, {})}
            found.append(Row(name, abe.method(name, **given), given))
    return found, {name: why for name, why in out.items() if wanted is None or name in names}


def measured(bench: Bench, row: Row, given: Series) -> dict[str, Any]:
    """Scores of a method on a bench, or why there are none; what is no error of ABE is a fault in it."""
    curve: dict[str, Any] = {} if given.curve is None else {"curve": given.curve}
    names = [*((name, curve) for name in METRICS), *given.further.values(), "passes"]
    try:
        made = abe.evaluate(
            bench.task, {row.name: row.method}, names, data=bench.data, step=given.step, progress=False
        )
    except AbeError as problem:
        said = str(problem).removesuffix(f" [{problem.code.value}]")
        return {"code": problem.code.value, "says": " ".join(said.split())}
    except Exception as problem:
        return {"code": type(problem).__name__, "says": " ".join(str(problem).split())}
    scores = made.scores[row.name]
    found: dict[str, Any] = {name: measuring.rounded(scores[name].values) for name in METRICS}
    if given.further:
        found["further"] = {title: float(scores[name].mean) for title, name in given.further.items()}
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


def run(
    task: str,
    n: int,
    wanted: Sequence[str] | None,
    scratch: Path,
    folder: Path | None,
    *,
    models: Sequence[str] | None = None,
    quick: bool = False,
    time: bool = False,
    so_far: bool = False,
) -> Outcome:
    """Measure what is missing, model by model, and make the tables of all that is known.

    Args:
        task: one of `benches.TASKS`.
        n: how many samples.
        wanted: names of methods; None for the default.
        scratch: folder for what is finished so far.
        folder: where Tux Paint's stamps were unpacked.
        models: which of the task's; None for all.
        quick: on a toy.
        time: measure seconds again.
        so_far: measure nothing, and list what is missing.
    """
    given = benches.toy(task) if quick else benches.TASKS[task]
    settings = {"study": f"tasks {task}", "n": n, "step": given.step, "quick": quick, "versions": versions()}
    records = Records(scratch / f"tasks-{task}{'-quick' * quick}-{n}.jsonl", settings)
    found = []
    for model in models or given.benches:
        make = given.benches[model]
        rows, out = rows_of(wanted, model in given.few, given.settings, given.also)
        keys = {row.name: f"{model} | {row.name}({called(dict(row.given))})" for row in rows}
        missing = not all(key in records.found for key in (*keys.values(), f"{model} | about"))
        if not so_far and (missing or time):
            _measure(records, make(n, folder), rows, keys, given, time=time)
        found.append(_known(records, model, rows, keys, out, n))
    return outcome(given.samples.format(n=n), found)


def _measure(
    records: Records,
    bench: Bench,
    rows: Sequence[Row],
    keys: Mapping[str, str],
    given: Series,
    *,
    time: bool,
) -> None:
    """Everything of a model that is missing; with ``time``, the seconds of what is there once more."""
    about = (f"{bench.model} | about", partial(str, bench.about))
    parts = [(keys[row.name], partial(measured, bench, row, given)) for row in rows]
    old = [row for row in rows if keys[row.name] in records.found]
    records.work(bench.model, [about, *parts])
    for row in old if time else []:
        kept = records[keys[row.name]]
        if "code" not in kept:
            records.keep(keys[row.name], {**kept, **timed(bench, row)})


def _known(
    records: Records,
    model: str,
    rows: Sequence[Row],
    keys: Mapping[str, str],
    out: Mapping[str, str],
    n: int,
) -> Found:
    kept = {row.name: records[keys[row.name]] for row in rows if keys[row.name] in records.found}
    later = {row.name: "not measured yet" for row in rows if row.name not in kept}
    return Found(
        model=model,
        about=records.found.get(f"{model} | about", "not begun"),
        n=n,
        scores={name: one for name, one in kept.items() if "code" not in one},
        given={row.name: called(dict(row.given)) for row in rows if row.given and row.name in kept},
        failed={name: (one["code"], one["says"]) for name, one in kept.items() if "code" in one},
        out={**out, **later},
    )


def main(words: Sequence[str] | None = None) -> Outcome:
    """Measure one task and write its record and its tables."""
    parser = _parser()
    options = parser.parse_args(words)
    given = benches.TASKS[options.task]
    n = options.n or (4 if options.quick else given.n)
    wanted = [name.strip() for name in options.methods.split(",")] if options.methods else None
    models = [name.strip() for name in options.models.split(";")] if options.models else None
    known = benches.TASKS[options.task].benches
    if unknown := [] if options.quick else [name for name in models or [] if name not in known]:
        parser.error(f"{unknown[0]} is no model of {options.task}; there are {'; '.join(known)}")
    made = run(
        options.task,
        n,
        wanted,
        options.scratch,
        options.stamps,
        models=models,
        quick=options.quick,
        time=options.time,
        so_far=options.so_far,
    )
    command = f"python -m studies tasks {options.task} --n {n}"
    command += " --quick" * options.quick + (f" --methods {options.methods}" if wanted else "")
    command += f' --models "{options.models}"' if models else ""
    command += " --so-far" * options.so_far
    command += " --stamps stamps" * (options.stamps is not None)
    day = max((k["day"] for one in again(made.values) for k in one.scores.values()), default="")
    path = options.out / f"tasks-{options.task}"
    write(made, path, {"study": f"tasks-{options.task}", "command": command, "day": day})
    show(made, Console())
    print(f"Written to {path}.json and .md")
    return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies tasks", description=__doc__)
    parser.add_argument("task", choices=tuple(benches.TASKS), metavar="TASK", help=", ".join(benches.TASKS))
    parser.add_argument("--n", type=int, help="how many samples")
    parser.add_argument("--methods", help="names, separated by commas; those that need no further argument")
    parser.add_argument("--models", help="some of the task's models, separated by semicolons")
    parser.add_argument("--time", action="store_true", help="measure seconds again, scores stay")
    parser.add_argument("--so-far", action="store_true", help="tables of what an interrupted run has kept")
    parser.add_argument("--quick", action="store_true", help="untrained toys, in seconds: shows that it runs")
    parser.add_argument("--stamps", type=Path, help="where Tux Paint's stamps were unpacked")
    parser.add_argument("--out", type=Path, default=Path("out/studies"), help="for record and tables")
    parser.add_argument(
        "--scratch", type=Path, default=Path("out/studies"), help="for what is finished so far"
    )
    return parser
