"""``abe compare`` and ``abe demo``."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from abe.cli import exits, inputs, options, output, ready
from abe.errors import AbeError, Code, InputError

PAGE = "comparison.html"
ONE_OF_EACH: dict[str, str] = {
    "gradient × input": "integrated_gradients",
    "modified gradient": "smoothgrad",
    "layer-wise backpropagation": "lrp_epsilon",
    "attention": "attention_rollout",
    "perturbation": "occlusion_patch",
    "local surrogate": "lime",
    "influential subset": "iba",
}
"""What is compared unless methods are named: of every family one that is quick and made for any network."""
OF_SOME = ("attention",)
"""Families that only some networks have something for."""
WINDOWS = 729
"""Rows of a method that moves a window over the photograph, by default."""
DEMO: tuple[str, ...] = (
    *("gradient", "gradient_x_input", "fast_ig", "smoothgrad", "smoothgrad_squared", "vargrad"),
    *("integrated_gradients", "expected_gradients", "guided_ig", "blur_ig", "path_integral"),
    "path_attribution",
)
"""What the demo compares: the gradient and path methods, three minutes on two cores with their curves."""


def run(
    photos: options.Photos,
    /,
    *,
    methods: Annotated[options.Names, Parameter(show_default="one of every family")] = None,
    metrics: options.Metrics = None,
    step: options.Step = None,
    target: options.Target = None,
    objective: options.Objective = "logit",
    seed: options.Seed = 0,
    model: options.ModelOptions = options.DEFAULT_MODEL,
    out: options.Out = Path("out"),
    json: options.Json = False,
) -> None:
    """Explain photographs by several methods, score every map, and rank the methods.

    Says first how long it will take. By default one method of every family is run, which takes a
    small network without a GPU about two minutes a photograph; --methods all runs every method.
    Then prints one ranked table and writes a web page (comparison.html) and a picture per photograph.
    """
    paths = inputs.photos(photos)
    size = inputs.step_of(step)
    from abe.metrics.evaluation.compare import compare
    from abe.report.view import stems
    from abe.task.image import load_image

    wanted, measured = inputs.methods(methods), inputs.metrics(metrics)
    _check(wanted or (), measured, objective)
    pictures = [out / f"{stem}.png" for stem in stems([path.name for path in paths])]
    draw = _prepared(out, pictures, paths, json=json)
    for path in paths:
        load_image(path)  # an unreadable one is refused before the model is loaded
    task = inputs.task_of(model)
    chosen = inputs.target_of(task, target)
    names = [str(path) for path in paths]
    contenders = one_of_each(task, names[0]) if wanted is None else wanted
    if wanted is None:
        output.remark(f"One method of every family: {', '.join(contenders)}. --methods all runs all of them.")
    output.remark(estimate(task, names, contenders, measured, size))
    comparison = compare(
        task, names, contenders, measured, target=chosen, objective=objective, step=size, seed=seed
    )
    _finish(comparison, out, pictures if draw else None, json=json, title=None)


def _check(methods: Sequence[str], metrics: Sequence[str] | None, objective: str) -> None:
    """Refuse what cannot be run under its name alone."""
    from abe import registry
    from abe.metrics.evaluation.evaluate import chosen_metrics
    from abe.objectives import as_objective

    for name in methods:
        registry.methods.resolve(name)
    for metric in chosen_metrics(metrics, {}):
        needs = () if metric.card is None else metric.card.needs
        for truth, code in (("mask", Code.MASK), ("label", Code.LABELS)):
            if truth in needs:
                raise InputError(
                    code,
                    f"The metric {metric.name!r} needs a true {truth} of every photograph",
                    fix="Save the maps by `abe explain --save`, and pass the truth to `abe evaluate`",
                )
    as_objective(objective)


def one_of_each(task: Any, photo: Any) -> list[str]:
    """The method of every family that has one for this network."""
    from abe.api import explain

    found: list[str] = []
    for family, name in ONE_OF_EACH.items():
        try:
            if family in OF_SOME:
                explain(task, photo, name)
        except AbeError:  # the network has nothing of the kind, or a fault that the comparison will tell
            continue
        found.append(name)
    return found


def estimate(
    task: Any, photos: Sequence[Any], methods: Sequence[Any], metrics: Sequence[str] | None, step: Any
) -> str:
    """One sentence: how many passes a comparison takes, and how long that is, from one timed pass."""
    from abe import registry
    from abe.api import explain
    from abe.metrics.evaluation.base import runs_of
    from abe.metrics.evaluation.evaluate import chosen_metrics

    runs = runs_of(chosen_metrics(metrics, {"unit": "pixel", "baseline": "zero", "step": step}))
    every = len(registry.methods.names())
    what = f"{len(methods)} of {every} methods on {len(photos)} photograph{'s' if len(photos) > 1 else ''}"
    try:
        explain(task, photos[0], "gradient")  # the first call also finds out how to run the model
        timed = explain(task, photos[0], "gradient")
    except AbeError:  # without a gradient, or for a reason that the comparison will tell
        return f"{what}; how long that takes is not known beforehand"
    shape = tuple(timed.x.shape[1:])
    curves = sum(run.points(shape) for run in runs)
    own = [_rows(registry.methods.resolve(method), shape) for method in methods]
    rows = len(photos) * sum(curves + number for number in own)
    once = timed.cost.seconds / max(1, timed.cost.forward_rows + timed.cost.backward_rows)
    return f"{what}: about {rows:,.0f} passes of {once:.2g} s, so about {_duration(rows * once)}"


def _rows(method: Any, shape: Sequence[int]) -> float:
    """Rows of a method for one photograph: promised by its card, or guessed from its parameters."""
    from abe.metrics.evaluation.evaluate import GUESS

    promised, params = method.rows(1), dict(method.params)
    if promised is not None:
        return promised
    if params.get("evaluations"):
        return float(params["evaluations"])
    if params.get("units") in ("pixel", "element"):
        return float(shape[-1] * shape[-2])
    if "stride" in params:
        return float(WINDOWS)
    return float(params["steps"] * params.get("samples", 1)) if params.get("steps") else GUESS


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{max(1, round(seconds))} s"


def demo(
    *,
    photographs: Annotated[
        str | None, Parameter(help="Names of photographs, separated by commas.", show_default="four")
    ] = None,
    methods: Annotated[options.Names, Parameter(show_default="twelve")] = None,
    step: str = "5%",
    seed: options.Seed = 0,
    out: options.Out = Path("out"),
    json: options.Json = False,
) -> None:
    """Explain four real photographs with a real network by twelve methods, and rank them.

    Uses EfficientNet-Lite0 with its ImageNet weights and photographs of scikit-image, all from
    installed packages; nothing is downloaded. Writes a web page and pictures.

    Args:
        step: Size of one change of the curves; smaller is finer and slower.
    """
    began = time.perf_counter()
    size = inputs.step_of(step)
    contenders = demo_methods(inputs.methods(methods) or DEMO)
    from abe import registry
    from abe.metrics.evaluation.compare import compare
    from abe.report.view import stems
    from abe.task import zoo

    photos = zoo.photographs(inputs.names(photographs))
    pictures = [out / f"{stem}.png" for stem in stems(list(photos))]
    draw = _prepared(out, pictures, (), json=json)
    task = zoo.efficientnet_lite0()
    output.remark(
        f"EfficientNet-Lite0 (ImageNet) on {len(photos)} photographs: {', '.join(photos)}; "
        f"{len(contenders)} of {len(registry.methods.names())} methods "
        "(abe methods lists all, abe compare runs any); "
        f"curves in steps of {step} of the pixels"
    )
    comparison = compare(task, list(photos.values()), contenders, step=size, seed=seed)
    title = f"{len(contenders)} ways to explain EfficientNet-Lite0"
    _finish(comparison, out, pictures if draw else None, json=json, title=title)
    output.remark(f"{time.perf_counter() - began:.0f} s in all")


def demo_methods(names: Sequence[str] = DEMO) -> list[tuple[str, Mapping[str, Any]]]:
    """The methods of the demo; one that needs a parameter comes with its card's example."""
    from abe.registry import methods

    entries = map(methods.get, names)
    return [(entry.name, dict(entry.card.example) if entry.required() else {}) for entry in entries]


def _prepared(out: Path, pictures: Sequence[Path], photos: Sequence[Path], *, json: bool) -> bool:
    """Whether the page and the pictures will be made; what would keep them from it is refused."""
    draw = ready.drawing("matplotlib", "jinja2", optional=json)
    ready.place(out, [out / PAGE, *pictures] if draw else [], photos=photos)
    return draw


def _finish(
    comparison: Any, out: Path, pictures: Sequence[Path] | None, *, json: bool, title: str | None
) -> None:
    """Print the table, write the page and one picture per photograph, or print JSON once they are written."""
    pieces = exits.Pieces()
    written: list[Path] = []
    if not json:
        with pieces.piece("standard output"):
            output.console().print(comparison.table())
    try:
        if pictures is not None:
            _write(comparison, out / PAGE, pictures, title, pieces, written)
    finally:  # when interrupted, too
        if json:
            page = next((str(path) for path in written if path.name == PAGE), None)
            drawn = [str(path) for path in written if path.name != PAGE]
            output.emit({**comparison.to_dict(), "page": page, "pictures": drawn})
    for path in [] if json else written:
        output.line("", str(path))
    output.warn([w for origin in comparison.origins.values() for w in origin.warnings])
    pieces.close()


def _write(
    comparison: Any,
    page: Path,
    pictures: Sequence[Path],
    title: str | None,
    pieces: exits.Pieces,
    written: list[Path],
) -> None:
    """Write the page, then the pictures; one that fails hides no other."""
    from abe.report import view
    from abe.report.figures import plot_photo
    from abe.report.html import render
    from abe.storage import write

    shown = view.from_comparison(comparison, title=title)
    with pieces.piece(str(page)):
        written.append(write(page, render(shown).encode("utf-8")))
    for photo, path in zip(shown.photos, pictures, strict=True):
        with pieces.piece(str(path)):
            plot_photo(photo, path=path)
            written.append(path)
