"""``abe explain``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from abe.cli import exits, inputs, options, output, questions, ready
from abe.cli.given import Sample, check, fit, raw_of, samples, stems
from abe.errors import AbeError
from abe.progress import staged
from abe.terminal import readable

if TYPE_CHECKING:
    from rich.table import Table

    from abe.explanation import Explanation


def run(
    words: options.Inputs = None,
    /,
    *,
    method: Annotated[
        str | None, Parameter(alias="-k", show_default="ig; occlusion of a language model")
    ] = None,
    param: options.Param = None,
    target: options.Target = None,
    objective: Annotated[
        str | None,
        Parameter(
            help="The explained score: logit, probability, margin, sequence ...",
            show_default="logit; log_probability of a language model",
        ),
    ] = None,
    seed: options.Seed = 0,
    given: options.InputOptions = options.DEFAULT_INPUT,
    question: options.QuestionOptions = options.DEFAULT_QUESTION,
    model: options.ModelOptions = options.DEFAULT_MODEL,
    out: options.Out = Path("out"),
    save: Annotated[bool, Parameter(group=options.OUTPUT, show_default=False)] = False,
    json: options.Json = False,
) -> None:
    """Show which pixels, words or columns drove the model's decision.

    Prints the prediction, the words or columns with their shares, what the map explains of the prediction
    and what it cost, and writes a picture of each: of a photograph itself, the signed map, where its
    magnitude lies, and the top classes.

    Args:
        method: A name or alias from `abe methods`.
        param: A parameter of the method; may be repeated.
        save: Also save the maps, to load with abe.Explanation.load.
    """
    asked = samples(words, given)
    settings = inputs.parameters(param or ())
    from abe.objectives import as_objective
    from abe.registry import methods

    chosen = methods.build(method or "integrated_gradients", **settings)
    if objective is not None:
        as_objective(objective)
    draw = ready.drawing("matplotlib", optional=json or save)
    jobs = _jobs(asked, out, chosen.name, draw=draw, save=save)
    check(asked, model)
    task = inputs.task_of(model, asked, without=given.without, question=question)
    fit(task, asked, model)
    if method is None and chosen.name != task.usual[0]:
        chosen = methods.build(task.usual[0])
        jobs = _jobs(asked, out, chosen.name, draw=draw, save=save)
    wanted, further = inputs.target_of(task, target), questions.asked_of(task, question)
    results: list[dict[str, Any]] = []
    pieces = exits.Pieces()
    how = {"target": wanted, "objective": objective, "seed": seed, **further}
    together = json and len(jobs) > 1  # results that are printed show how far it is
    try:
        with staged(chosen.name, len(jobs), together) as (progress, done):
            for job in jobs:
                with pieces.piece(job.sample.name):
                    shown = {**how, "progress": progress or True}
                    _explain(job, task, chosen, shown, results, pieces, told=not json)
                done()
    finally:  # when interrupted, too
        if json and results:
            lost = {job.sample.name: job.sample for job in jobs if job.sample.name in pieces.failed}
            output.emit(results + [_failure(lost[name], pieces.failed[name]) for name in sorted(lost)])
        output.warn([w for result in results for w in result["warnings"]])
    pieces.close(alone=len(jobs) == 1)


def _jobs(asked: list[Sample], out: Path, method: str, *, draw: bool, save: bool) -> "list[Job]":
    """What is to be done, once it is seen that the results can be written."""
    jobs = [
        Job(one, out / f"{stem}-{method}", draw=draw, save=save)
        for one, stem in zip(asked, stems(asked), strict=True)
    ]
    ready.place(
        out,
        [job.picture for job in jobs] if draw else [],
        saved=[job.folder for job in jobs] if save else [],
        kind="explanation",
        inputs=[one.path for one in asked if one.path is not None],
    )
    return jobs


@dataclass(frozen=True)
class Job:
    """One sample, and where its results go without their suffix."""

    sample: Sample
    folder: Path
    draw: bool
    save: bool

    @property
    def picture(self) -> Path:
        """Where the picture goes."""
        return self.folder.with_name(f"{self.folder.name}.png")


def _explain(
    job: Job,
    task: Any,
    method: Any,
    how: Mapping[str, Any],
    results: list[dict[str, Any]],
    pieces: exits.Pieces,
    *,
    told: bool,
) -> None:
    """Explain one sample (sizes may differ), say what was found, then write what was asked for."""
    from abe.api import explain

    asked = dict(how)
    answer, raw = asked.pop("answer", None), raw_of(task, job.sample)
    explanation = explain(task, raw if answer is None else (raw, answer), method, **asked)
    if job.sample.kind != "photo" and len(explanation) == 1:
        explanation.names = [readable(job.sample.name)]
    listed = _found(task, raw, told=told)
    found = [{**as_dict(explanation[i], job.sample), **listed} for i in range(len(explanation))]
    result = found[0] if found else {**_nothing(explanation, job.sample), **listed}
    results += found or [result]
    if told:
        for number, own in enumerate(found):
            _print(own, explanation[number])
    if job.save:
        with pieces.piece(str(job.folder)):
            result["saved"] = str(explanation.save(job.folder))
    if job.draw:
        from abe.report.figures import plot_explanation

        with pieces.piece(str(job.picture)):
            plot_explanation(explanation, path=job.picture)
            result["picture"] = str(job.picture)
    for own in found:
        own.update({label: result[label] for label in ("saved", "picture")})
    if told:
        for label in ("saved", "picture"):
            if result[label]:
                output.line(f"  {label:8}  ", result[label])
        output.console().print()


def _found(task: Any, raw: Any, *, told: bool) -> dict[str, Any]:
    """What a detector finds, which is listed; nothing of other models."""
    if task.modality != "detection":
        return {}
    listed = task.detect(raw)
    if told:
        from rich.text import Text

        output.console().print(Text(f"{readable(listed.photo)}: {listed.counted}", style="bold"))
        for line in listed.lines():
            output.console().print(Text(f"  {readable(line)}"))
    return {"detections": listed.to_dict()}


def _nothing(explanation: "Explanation", sample: Sample) -> dict[str, Any]:
    """The result where nothing was found to explain."""
    return {
        _key(sample): sample.name,
        "method": explanation.method,
        "spec": dict(explanation.spec),
        "target": None,
        "warnings": list(explanation.warnings),
        "picture": None,
        "saved": None,
    }


def _failure(sample: Sample, error: Exception) -> dict[str, Any]:
    code = error.code.value if isinstance(error, AbeError) else type(error).__name__
    return {_key(sample): sample.name, "error": {"code": code, "message": str(error)}}


def _key(sample: Sample) -> str:
    return "photo" if sample.kind == "photo" else "input"


def as_dict(explanation: "Explanation", sample: Sample) -> dict[str, Any]:
    """Everything about one sample's explanation except the map itself; of named units their shares."""
    named = explanation.labels is not None
    units = [{"name": name, "value": value} for name, value in explanation.by_unit()[0]] if named else None
    residual = explanation.residual
    cost = explanation.cost
    return {
        _key(sample): sample.name,
        **({"unit": explanation.unit, "units": units} if units is not None else {}),
        **({"generated": _generated(explanation)} if "prompt" in explanation.diagnostics else {}),
        "method": explanation.method,
        "spec": dict(explanation.spec),
        "objective": explanation.objective,
        "target": {"index": explanation.target[0].tolist(), "name": explanation.target_names[0]},
        "top": [{"name": name, "probability": p} for name, p in explanation.top[0]],
        "score": float(explanation.score[0]),
        "delta": None if explanation.delta is None else float(explanation.delta[0]),
        "residual": None if residual is None else float(residual[0]),
        "cost": {**asdict(cost), "passes": cost.passes},
        "seed": explanation.seed,
        "id": explanation.ids[0],
        "warnings": list(explanation.warnings),
        "versions": dict(explanation.versions),
        "picture": None,
        "saved": None,
    }


def _generated(explanation: "Explanation") -> list[dict[str, Any]]:
    """Every generated token with the shares of what it rests on."""
    table = explanation.table()
    return [
        {
            "token": name,
            "score": float(table.score[row]),
            "probability": None if table.probability is None else float(table.probability[row]),
            "units": [{"name": unit, "value": value} for unit, value in table.shares(row)],
        }
        for row, name in enumerate(table.rows)
    ]


def _print(result: dict[str, Any], explanation: "Explanation") -> None:
    """One sample's result for a person."""
    from rich.text import Text

    from abe.report.looks import decision
    from abe.report.printed import body, generated
    from abe.report.view import number, percent
    from abe.terminal import NARROW

    screen = output.console()
    name = Path(result["photo"]).name if "photo" in result else result["input"]
    head = Text(inputs.short(readable(name)), style="bold")
    of = decision(readable(result["target"]["name"]), classes=bool(result["top"]))
    several = len(explanation) > 1 and "prompt" in explanation.diagnostics
    of = f"{len(explanation)} generated tokens" if several else of
    screen.print(head.append(f"   {result['method']} of {of}", style="default"))
    top = _grid(True, False, False)
    longest = 24 if screen.width >= NARROW else 8
    for entry in [] if several else result["top"]:
        bar = "█" * round(longest * entry["probability"])
        mark = "bold" if entry["name"] == result["target"]["name"] else ""
        name = Text(readable(entry["name"]), style=mark)
        top.add_row("", name, percent(entry["probability"]), Text(bar, style="orange3"))
    if result["top"] and not several:
        screen.print(top)
    coloured = screen.is_terminal and not screen.no_color
    drawings = (
        generated(explanation.table(), coloured=coloured)
        if several
        else body(explanation, 0, coloured=coloured)
    )
    for drawn in drawings:
        screen.print(drawn)
    cost = result["cost"]
    facts = _grid(False, True)
    if not several:
        facts.add_row(
            "", Text("score", style="dim"), Text(f"{result['objective']} {number(result['score'])}")
        )
    if result["residual"] is not None:
        delta = number(result["delta"])
        facts.add_row(
            "",
            Text("residual", style="dim"),
            f"{percent(result['residual'])} of the change of {delta} is unexplained",
        )
    rows = (
        f"{cost['forward_rows']} forward and {cost['backward_rows']} backward rows, {cost['seconds']:.2f} s"
    )
    facts.add_row("", Text("cost", style="dim"), f"{rows} (model run as {cost['execution']})")
    screen.print(facts)


def _grid(*words: bool) -> "Table":
    """An indented grid; columns of words give way in a narrow terminal, the others do not."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for wraps in (False, *words):
        grid.add_column(no_wrap=not wraps, overflow="fold")
    return grid
