"""``abe compare`` and ``abe demo``."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from abe.cli import exits, inputs, options, output, questions, quick, ready
from abe.cli.given import batch, check, fit, raw_of, samples, stems
from abe.errors import Code, InputError
from abe.terminal import readable

PAGE = "comparison.html"
DEMO: tuple[str, ...] = (
    *("gradient", "gradient_x_input", "fast_ig", "smoothgrad", "smoothgrad_squared", "vargrad"),
    *("integrated_gradients", "expected_gradients", "guided_ig", "blur_ig", "path_integral"),
    "path_attribution",
)
"""What the demo compares: the gradient and path methods, three minutes on two cores with their curves."""


def run(
    words: options.Inputs = None,
    /,
    *,
    methods: Annotated[options.Names, Parameter(show_default="one of every family")] = None,
    metrics: Annotated[
        str | None,
        Parameter(
            help="Names from `abe metrics`, separated by commas.", show_default=", ".join(quick.METRICS)
        ),
    ] = None,
    step: Annotated[
        options.Text,
        Parameter(help="Size of one change of the curves: 5%, 0.05, or 2000 positions.", show_default="5%"),
    ] = None,
    fine: Annotated[bool, Parameter(show_default=False)] = False,
    target: options.Target = None,
    objective: options.Objective = "logit",
    seed: options.Seed = 0,
    given: options.InputOptions = options.DEFAULT_INPUT,
    question: options.QuestionOptions = options.DEFAULT_QUESTION,
    model: options.ModelOptions = options.DEFAULT_MODEL,
    out: options.Out = Path("out"),
    json: options.Json = False,
) -> None:
    """Explain photographs, texts or rows by several methods, score every map, and rank the methods.

    Says first how long it will take: by default about a minute for one photograph and a small network on
    two cores, for which one method of every family runs, two of them with fewer passes than their own
    defaults. --methods all runs every method. Results are told as they come; then come one ranked table,
    a web page (comparison.html) and a picture of every sample.

    Args:
        fine: Run methods at their own defaults, measure everything that `abe.compare` measures, and take
            curves in steps of 1%, where nothing else is asked for.
    """
    asked = samples(words, given)
    size = inputs.step_of(step)
    from abe.metrics.evaluation.batches import Samples
    from abe.metrics.evaluation.compare import plan_of
    from abe.metrics.evaluation.defaults import chosen_metrics, defaults_of

    wanted, measured = inputs.methods(methods), inputs.metrics(metrics)
    if not fine:
        size, measured = size or quick.STEP, list(quick.METRICS) if measured is None else measured
    _check(wanted or (), measured, objective)
    pictures = [out / f"{stem}.png" for stem in stems(asked)]
    files = [one.path for one in asked if one.path is not None]
    draw = _prepared(out, pictures, files, json=json)
    check(asked, model)
    task = inputs.task_of(model, asked, without=given.without, question=question)
    fit(task, asked, model)
    chosen, further = inputs.target_of(task, target), questions.asked_of(task, question)
    families = quick.one_of_each(task, raw_of(task, asked[0])) if wanted is None else []
    thorough: Sequence[Any] = [quick.own(task, one) for one in families] if wanted is None else wanted
    contenders: Sequence[Any] = families if wanted is None and not fine else thorough
    scores = chosen_metrics(measured, defaults_of(task, None, None, size), task)
    others: dict[str, quick.Plan] = {}
    if wanted is None:
        others["--methods all"] = (inputs.methods("all") or (), scores)
    if not fine:
        others["--fine"] = (
            thorough,
            chosen_metrics(
                inputs.metrics(metrics), defaults_of(task, None, None, inputs.step_of(step)), task
            ),
        )
    if wanted is None:
        output.remark(f"One method of every family: {', '.join(map(quick.called, contenders))}.")
    output.remark(quick.estimate(task, [raw_of(task, one) for one in asked], contenders, scores, others))
    told = quick.Told(len(contenders))
    plan = plan_of(task, contenders, scores, objective=objective, seed=seed, tell=told)
    data = Samples(task=task, data=batch(task, asked), target=chosen, asked=further)
    comparison = plan.run(data, defaults_of(task, None, None, size), None, True)
    if any(one.kind != "photo" for one in asked) and len(comparison.names) == len(asked):
        comparison.names = [inputs.short(readable(one.name)) for one in asked]
    _finish(comparison, out, pictures if draw else None, json=json, title=None)


def _check(methods: Sequence[str], metrics: Sequence[str] | None, objective: str) -> None:
    """Refuse what cannot be run under its name alone."""
    from abe import registry
    from abe.metrics.evaluation.defaults import chosen_metrics
    from abe.objectives import as_objective

    for name in methods:
        registry.methods.resolve(name)
    for metric in chosen_metrics(metrics, {}):
        needs = () if metric.card is None else metric.card.needs
        for truth, code in (("mask", Code.MASK), ("label", Code.LABELS)):
            if truth in needs:
                raise InputError(
                    code,
                    f"The metric {metric.name!r} needs a true {truth} of every sample",
                    fix="Save the maps by `abe explain --save`, and pass the truth to `abe evaluate`",
                )
    as_objective(objective)


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
    from abe.report import view
    from abe.task import zoo

    photos = zoo.photographs(inputs.names(photographs))
    pictures = [out / f"{stem}.png" for stem in view.stems(list(photos))]
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


def _prepared(out: Path, pictures: Sequence[Path], files: Sequence[Path], *, json: bool) -> bool:
    """Whether the page and the pictures will be made; what would keep them from it is refused."""
    draw = ready.drawing("matplotlib", "jinja2", optional=json)
    ready.place(out, [out / PAGE, *pictures] if draw else [], inputs=files)
    return draw


def _finish(
    comparison: Any, out: Path, pictures: Sequence[Path] | None, *, json: bool, title: str | None
) -> None:
    """Print the table, write the page and one picture per sample, or print JSON once they are written."""
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
    if len(pictures) != len(shown.samples):  # a photograph has as many as there are detections
        pictures = [page.parent / f"{stem}.png" for stem in view.stems([one.name for one in shown.samples])]
    with pieces.piece(str(page)):
        written.append(write(page, render(shown).encode("utf-8")))
    for photo, path in zip(shown.samples, pictures, strict=True):
        with pieces.piece(str(path)):
            plot_photo(photo, path=path)
            written.append(path)
