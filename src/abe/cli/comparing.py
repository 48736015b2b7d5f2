"""``abe compare`` and ``abe demo``."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from abe.cli import inputs, options, output

PAGE = "comparison.html"
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
    methods: Annotated[options.Names, Parameter(show_default="all")] = None,
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

    Prints one ranked table and writes a web page (comparison.html) and a picture per photograph.
    """
    paths = inputs.photos(photos)
    size = inputs.step_of(step)
    from abe.report.files import check_folder

    check_folder(out)
    from abe import registry
    from abe.task.image import load_image

    wanted, measured = inputs.names(methods), inputs.names(metrics)
    for name in wanted or ():
        registry.methods.get(name)
    for name in measured or ():
        registry.metrics.get(name)
    for path in paths:
        load_image(path)  # an unreadable one is refused before the model is loaded
    task = inputs.task_of(model)
    from abe.metrics.evaluation.compare import compare

    comparison = compare(
        task,
        [str(path) for path in paths],
        wanted,
        measured,
        target=inputs.target_of(task, target),
        objective=objective,
        step=size,
        seed=seed,
    )
    _finish(comparison, out, json=json, title=None)


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
    contenders = demo_methods(inputs.names(methods) or DEMO)
    from abe.report.files import check_folder

    check_folder(out)
    from abe import registry
    from abe.metrics.evaluation.compare import compare
    from abe.task import zoo

    photos = zoo.photographs(inputs.names(photographs))
    task = zoo.efficientnet_lite0()
    output.remark(
        f"EfficientNet-Lite0 (ImageNet) on {len(photos)} photographs: {', '.join(photos)}; "
        f"{len(contenders)} of {len(registry.methods.names())} methods "
        "(abe methods lists all, abe compare runs any); "
        f"curves in steps of {step} of the pixels"
    )
    comparison = compare(task, list(photos.values()), contenders, step=size, seed=seed)
    title = f"{len(contenders)} ways to explain EfficientNet-Lite0"
    _finish(comparison, out, json=json, title=title)
    output.remark(f"{time.perf_counter() - began:.0f} s in all")


def demo_methods(names: Sequence[str] = DEMO) -> list[tuple[str, Mapping[str, Any]]]:
    """The methods of the demo; one that needs a parameter comes with its card's example."""
    from abe.registry import methods

    entries = map(methods.get, names)
    return [(entry.name, dict(entry.card.example) if entry.required() else {}) for entry in entries]


def _finish(comparison: Any, out: Path, *, json: bool, title: str | None) -> None:
    """Print the table or JSON, and write the page and one picture per photograph."""
    written = write(comparison, out, title=title)
    if json:
        output.emit(
            {**comparison.to_dict(), "page": str(written[0]), "pictures": list(map(str, written[1:]))}
        )
    else:
        screen = output.console()
        screen.print(comparison.table())
        for path in written:
            screen.print(str(path), markup=False, soft_wrap=True)
    output.warn([w for origin in comparison.origins.values() for w in origin.warnings])


def write(comparison: Any, out: Path, *, title: str | None) -> list[Path]:
    """Write the page and the pictures; the page comes first."""
    from abe.report import view
    from abe.report.figures import plot_photo
    from abe.report.files import write as write_file
    from abe.report.html import render

    shown = view.from_comparison(comparison, title=title)
    written = [write_file(out / PAGE, render(shown).encode("utf-8"))]
    for photo, stem in zip(shown.photos, view.stems([p.name for p in shown.photos]), strict=True):
        path = out / f"{stem}.png"
        plot_photo(photo, path=path)
        written.append(path)
    return written
