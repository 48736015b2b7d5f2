"""``abe explain``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from abe.cli import inputs, options, output

if TYPE_CHECKING:
    from abe.explanation import Explanation


def run(
    photos: options.Photos,
    /,
    *,
    method: Annotated[str, Parameter(alias="-k")] = "ig",
    param: options.Param = None,
    target: options.Target = None,
    objective: options.Objective = "logit",
    seed: options.Seed = 0,
    model: options.ModelOptions = options.DEFAULT_MODEL,
    out: options.Out = Path("out"),
    save: Annotated[bool, Parameter(group=options.OUTPUT, show_default=False)] = False,
    json: options.Json = False,
) -> None:
    """Show which pixels of photographs drove the model's decision.

    Prints the prediction, what the map explains of it and what it cost, and writes one picture per
    photograph: the photograph, the signed map, where its magnitude lies, and the top classes.

    Args:
        method: A name or alias from `abe methods`.
        param: A parameter of the method; may be repeated.
        save: Also save the maps, to load with abe.Explanation.load.
    """
    paths = inputs.photos(photos)
    settings = inputs.parameters(param or ())
    from abe.report.files import check_folder

    check_folder(out)
    from abe.objectives import as_objective
    from abe.registry import methods
    from abe.report.view import stems
    from abe.task.image import load_image

    chosen = methods.build(method, **settings)
    as_objective(objective)
    for path in paths:
        load_image(path)  # an unreadable one is refused before the model is loaded
    task = inputs.task_of(model)
    wanted = inputs.target_of(task, target)
    results = [
        _one(task, path, stem, chosen, wanted, objective, seed, out, save)
        for path, stem in zip(paths, stems([path.name for path in paths]), strict=True)
    ]
    if json:
        output.emit(results)
        output.warn([w for result in results for w in result["warnings"]])
        return
    for result in results:
        _print(result)
    output.warn([w for result in results for w in result["warnings"]])


def _one(
    task: Any,
    path: Path,
    stem: str,
    method: Any,
    target: int | None,
    objective: str,
    seed: int,
    out: Path,
    save: bool,
) -> dict[str, Any]:
    """Explain one photograph (sizes may differ) and write what was asked for."""
    from abe.api import explain
    from abe.report.figures import plot_explanation

    explanation = explain(task, str(path), method, target=target, objective=objective, seed=seed)
    picture = out / f"{stem}-{method.name}.png"
    plot_explanation(explanation, path=picture)
    saved = explanation.save(out / f"{stem}-{method.name}") if save else None
    return as_dict(explanation, path, picture, saved)


def as_dict(explanation: "Explanation", path: Path, picture: Path, saved: Path | None) -> dict[str, Any]:
    """Everything about one photograph's explanation except the map itself."""
    residual = explanation.residual
    cost = explanation.cost
    return {
        "photo": str(path),
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
        "picture": str(picture),
        "saved": None if saved is None else str(saved),
    }


def _print(result: dict[str, Any]) -> None:
    """One photograph's result for a person."""
    from rich.table import Table
    from rich.text import Text

    from abe.report.view import number, percent

    screen = output.console()
    head = Text(Path(result["photo"]).name, style="bold")
    screen.print(head.append(f"   {result['method']} of {result['target']['name']}", style="default"))
    top = Table.grid(padding=(0, 2))
    for entry in result["top"]:
        bar = "█" * round(24 * entry["probability"])
        mark = "bold" if entry["name"] == result["target"]["name"] else ""
        top.add_row(
            "", Text(entry["name"], style=mark), percent(entry["probability"]), Text(bar, style="orange3")
        )
    if result["top"]:
        screen.print(top)
    cost = result["cost"]
    facts = Table.grid(padding=(0, 2))
    facts.add_row("", Text("score", style="dim"), f"{result['objective']} {number(result['score'])}")
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
    facts.add_row("", Text("picture", style="dim"), Text(result["picture"]))
    if result["saved"]:
        facts.add_row("", Text("saved", style="dim"), Text(result["saved"]))
    screen.print(facts)
    screen.print()
