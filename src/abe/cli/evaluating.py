"""``abe evaluate``."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from abe.cli import exits, inputs, options, output, questions, ready
from abe.cli.given import batch, check, fit, samples
from abe.errors import Code, InputError, SpecError, StorageError

if TYPE_CHECKING:
    from abe.explanation import Explanation
    from abe.metrics.evaluation.comparison import Comparison

PICTURE = "scores.png"


def run(
    maps: Annotated[
        list[str],
        Parameter(
            help="Folders that `abe explain --save` wrote (those of one method belong together), or arrays "
            "of maps made elsewhere: .npy, .npz, .safetensors, one map per --photo. NAME=MAPS names them."
        ),
    ],
    /,
    *,
    photo: Annotated[
        list[str] | None,
        Parameter(name="--photo", alias="-f", show_default="those of the saved maps"),
    ] = None,
    metrics: options.Metrics = None,
    masks: Path | None = None,
    truth: str | None = None,
    step: options.Step = None,
    target: Annotated[
        options.Target,
        Parameter(
            help="The class that the maps explain, by number or name.",
            show_default="what the saved maps say, else the prediction",
        ),
    ] = None,
    confidence: Annotated[float, Parameter(validator=validators.Number(gte=0.5, lte=0.9999))] = 0.95,
    seed: options.Seed = 0,
    given: options.InputOptions = options.DEFAULT_INPUT,
    question: options.QuestionOptions = options.DEFAULT_QUESTION,
    model: options.ModelOptions = options.DEFAULT_MODEL,
    out: options.Out = Path("out"),
    json: options.Json = False,
) -> None:
    """Score maps that exist already, made by ABE or by another library, and test whether they differ.

    Prints means with their intervals and says which maps do not differ; writes the scores
    (comparison.json, to load with abe.Comparison.load) and a picture of them (scores.png).
    Fewer samples than a test needs are said to be too few.

    Args:
        photo: What is explained: a photograph, text or file; may be repeated. Saved folders hold their own.
        masks: True regions, for localisation: an array file of (samples, height, width).
        truth: True classes, for metrics that need them: names or numbers, separated by commas.
        confidence: Of intervals and tests.
    """
    size, measured = inputs.step_of(step), inputs.metrics(metrics)
    asked = samples(photo, given) if photo or given.text or given.input else []
    draw = ready.drawing("matplotlib", optional=json)
    from abe import arrays

    folders, files = _sorted_out(maps)
    groups = _loaded(folders)
    _refuse_namesakes(groups, files)
    regions = None if masks is None else arrays.read(masks)["maps"]
    ready.place(
        out,
        [out / PICTURE] if draw else [],
        saved=[out],
        kind="comparison",
        inputs=[one.path for one in asked if one.path],
    )
    if not groups and not asked:
        raise InputError(
            Code.EMPTY_BATCH,
            "What is explained is not known",
            got="array files, which hold maps alone",
            fix="Pass --photo (or --input) once per sample, in the order of the maps",
        )
    if asked:
        check(asked, model)
    task = inputs.task_of(model, asked, without=given.without, question=question)
    fit(task, asked, model)
    data = batch(task, asked) if asked else None
    further = questions.asked_of(task, question)
    lifted = None if data is None else task.lift(data, **further)
    made: dict[str, Any] = {**_aligned(groups, lifted), **files}
    from abe.metrics.evaluation.evaluate import evaluate

    found = evaluate(
        task,
        made,
        measured,
        data=data,
        target=inputs.target_of(task, target),
        labels=None if truth is None else _truth(task, truth),
        masks=regions,
        step=size,
        confidence=confidence,
        seed=seed,
        **further,
    )
    _finish(found, out, draw=draw, json=json)


def _finish(found: "Comparison", out: Path, *, draw: bool, json: bool) -> None:
    """Print the table, save and draw, or print JSON once that is done; what fails hides nothing else."""
    pieces = exits.Pieces()
    written: dict[str, str | None] = {"saved": None, "picture": None}
    if not json:
        with pieces.piece("standard output"):
            output.console().print(found.table())
    try:
        with pieces.piece(str(out)):
            written["saved"] = str(found.save(out) / "comparison.json")
        if draw:
            with pieces.piece(str(out / PICTURE)):
                found.plot(out / PICTURE)
                written["picture"] = str(out / PICTURE)
    finally:  # when interrupted, too
        if json:
            output.emit({**found.to_dict(), **written})
    for path in () if json else filter(None, written.values()):
        output.line("", path)
    notes = [w for origin in found.origins.values() for w in origin.warnings]
    output.warn(
        [*notes, *(w for scores in found.scores.values() for s in scores.values() for w in s.warnings)]
    )
    pieces.close()


def _refuse_namesakes(groups: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    for name in files:
        if name in groups:
            raise SpecError(
                Code.DUPLICATE_NAME,
                f"Saved folders and a file are both called {name!r}",
                got=str(files[name]),
                fix="Name one of them: NAME=PATH",
            )


def _sorted_out(maps: Sequence[str]) -> tuple[list[tuple[str, Path]], dict[str, Path]]:
    """Folders of saved explanations with the names given to them, and array files by name."""
    from abe import arrays
    from abe.terminal import readable

    folders: list[tuple[str, Path]] = []
    files: dict[str, Path] = {}
    for item in maps:
        name, equals, rest = item.partition("=")
        path = Path(rest) if equals and not os.path.exists(item) else Path(item)
        name = readable(name) if path != Path(item) else ""
        if os.path.isdir(path):
            folders.append((name, path))
            continue
        if problem := ready.regular(path):
            raise StorageError(
                Code.FOREIGN_FILE, f"There are no maps here: {problem}", got=item, fix="Check the path"
            )
        name = name or readable(path.stem)
        if name in files:
            raise SpecError(
                Code.DUPLICATE_NAME, f"Two files are called {name!r}", fix="Name one of them: NAME=PATH"
            )
        arrays.read(path)  # an unreadable one is refused before the model is loaded
        files[name] = path
    return folders, files


def _loaded(folders: Sequence[tuple[str, Path]]) -> dict[str, list["Explanation"]]:
    """Explanations of single samples by method, or by the name given to them."""
    from abe.explanation import Explanation

    kinds: dict[tuple[str, str], list[Explanation]] = {}
    for name, path in folders:
        whole = Explanation.load(path)
        key = (name or whole.method, "" if name else repr(whole.spec))
        kinds.setdefault(key, []).extend(whole[i] for i in range(len(whole)))
    found: dict[str, list[Explanation]] = {}
    for name, _ in kinds:
        same = [key for key in kinds if key[0] == name]
        for number, key in enumerate(same, 1):
            label = name if number == 1 else f"{name} ({number})"
            if found.setdefault(label, kinds[key]) is not kinds[key]:
                raise SpecError(
                    Code.DUPLICATE_NAME,
                    f"Maps of two kinds are called {label!r}",
                    fix="Name them: NAME=FOLDER",
                )
    return found


def _aligned(groups: Mapping[str, list["Explanation"]], lifted: Any) -> dict[str, "Explanation"]:
    """One explanation per name, the samples in one order."""
    from abe.draws import sample_ids
    from abe.explanation import Explanation
    from abe.task.lengths import identities

    if not groups:
        return {}
    first = next(iter(groups.values()))
    order = [sample_ids(e.x)[0] for e in first] if lifted is None else identities(None, lifted)
    found: dict[str, Explanation] = {}
    for name, parts in groups.items():
        by_id = {sample_ids(e.x)[0]: e for e in parts}
        missing = [i for i in order if i not in by_id]
        if missing or len(parts) != len(order):
            raise InputError(
                Code.SAMPLES,
                f"The maps {name!r} are not of the samples that are evaluated",
                got=f"{len(parts)} maps ({', '.join(e.names[0] for e in parts[:4])}), "
                f"{len(order) - len(missing)} of them of these",
                expected=f"{len(order)} maps, one per sample",
                fix="Explain all samples by every method, with the same model options",
            )
        found[name] = Explanation.join([by_id[i] for i in order])
    return found


def _truth(task: Any, text: str) -> list[int]:
    """True classes, by number or name."""
    return [int(inputs.target_of(task, part.strip()) or 0) for part in text.split(",")]
