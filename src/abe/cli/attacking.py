"""``abe attack``."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from abe.cli import exits, inputs, options, output, questions, ready
from abe.cli.given import Sample, batch, check, fit, samples, stems
from abe.errors import Code, SpecError
from abe.terminal import readable

FIGURE = "robustness.png"


def run(
    words: options.Inputs = None,
    /,
    *,
    method: Annotated[str, Parameter(name=("--attack", "-k"))] = "pgd",
    eps: Annotated[options.Text, Parameter(show_default="the attack's own")] = None,
    norm: Annotated[str | None, Parameter(show_default="linf")] = None,
    steps: Annotated[int | None, options.at_least(0), Parameter(show_default="the attack's own")] = None,
    epsilons: options.Text = None,
    param: options.Param = None,
    target: Annotated[
        options.Target, Parameter(help="Class to aim for.", show_default="away from the prediction")
    ] = None,
    restarts: Annotated[int, options.at_least(1)] = 1,
    seed: options.Seed = 0,
    given: options.InputOptions = options.DEFAULT_INPUT,
    question: options.QuestionOptions = options.DEFAULT_QUESTION,
    model: options.ModelOptions = options.DEFAULT_MODEL,
    out: options.Out = Path("out"),
    json: options.Json = False,
) -> None:
    """Change inputs a little so that the model decides otherwise, and say how little it took.

    Prints one line per sample. Changed photographs are written as PNG files, of which everything that is
    printed holds: colours are rounded to 8 bits first. Of a text the vectors of its words are changed, so
    nothing is written. With --epsilons prints and draws the accuracy over the radius.

    Args:
        method: A name or alias from `abe attacks`.
        eps: Radius in input units: 8/255 or 0.03.
        norm: linf or l2.
        steps: How many steps.
        epsilons: Radii separated by commas: measures accuracy over them instead.
        param: A parameter of the attack; may be repeated.
        restarts: Independent runs per sample.
    """
    asked = samples(words, given)
    params = inputs.parameters(param or ())
    said = {"eps": eps, "norm": norm, "steps": steps, "restarts": restarts if restarts != 1 else None}
    _refuse_twice(params, [name for name, value in said.items() if value is not None])
    params |= {} if eps is None else {"eps": number("eps", eps)}
    params |= {} if norm is None else {"norm": norm}
    radii = None if epsilons is None else [number("epsilons", part) for part in epsilons.split(",")]
    _refuse_both(radii, eps, target)
    from abe.registry import updates

    updates.get(method)
    draw = radii is None or ready.drawing("matplotlib", optional=json)
    drawn = radii is None and all(one.kind == "photo" for one in asked)
    pictures = [out / FIGURE] * draw if radii is not None else _places(asked, out) if drawn else []
    ready.place(out, pictures, inputs=[one.path for one in asked if one.path is not None])
    check(asked, model)
    task = inputs.task_of(model, asked, without=given.without, question=question)
    fit(task, asked, model)
    data = batch(task, asked)
    settings: dict[str, Any] = {"steps": steps, "restarts": restarts, "seed": seed, **params}
    settings |= questions.asked_of(task, question)
    if radii is not None:
        _evaluate(task, data, method, radii, settings, pictures, json=json)
        return
    from abe.robustness import as_pictures, attack

    found = attack(task, data, method, target=inputs.target_of(task, target), **settings)
    images, result = as_pictures(task, found) if drawn else ([], found)
    if not drawn and len(result.names) == len(asked):
        result.names = [inputs.short(readable(one.name)) for one in asked]
    pieces = exits.Pieces()
    if not json:
        with pieces.piece("standard output"):
            output.console().print(result.table())
    written = _written(images, _as_many(pictures, result.names, out) if drawn else [], pieces)
    if json:
        output.emit({**result.to_dict(), "pictures": [str(path) for path in written]})
    else:
        _show(written)
    output.warn(result.warnings)
    pieces.close()


def number(name: str, text: str) -> float:
    """A number or a fraction such as 8/255.

    Raises:
        SpecError: it is neither.
    """
    above, slash, below = text.strip().partition("/")
    try:
        found = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        found = math.nan
    if not math.isfinite(found):
        raise SpecError(
            Code.BAD_PARAMETER,
            f"--{name} takes a radius",
            got=repr(inputs.short(text)),
            expected="for example 8/255 or 0.03",
        )
    return found


def _refuse_both(radii: list[float] | None, eps: str | None, target: str | None) -> None:
    if radii is not None and (eps is not None or target is not None):
        raise SpecError(
            Code.BAD_PARAMETER,
            "--epsilons measures accuracy over radii, away from the prediction",
            got="--eps or --target beside it",
            fix="Leave one of them out",
        )


def _refuse_twice(params: Mapping[str, Any], said: Sequence[str]) -> None:
    twice = [name for name in said if name in params]
    if twice:
        raise SpecError(
            Code.DUPLICATE_NAME,
            f"{twice[0]} is given twice",
            got=f"--param {twice[0]}={params[twice[0]]} beside --{twice[0]}",
            fix="Leave one of them out",
        )


def _evaluate(
    task: Any,
    data: Any,
    method: str,
    radii: list[float],
    settings: dict[str, Any],
    pictures: Sequence[Path],
    *,
    json: bool,
) -> None:
    from abe.robustness import evaluate_robustness

    curve = evaluate_robustness(task, data, method, epsilons=radii, **settings)
    pieces = exits.Pieces()
    written: list[Path] = []
    if not json:
        with pieces.piece("standard output"):
            output.console().print(curve.table())
    try:
        for path in pictures:
            from abe.report.robustness import plot_curve

            with pieces.piece(str(path)):
                plot_curve(curve, path=path)
                written.append(path)
    finally:  # when interrupted, too
        if json:
            output.emit({**curve.to_dict(), "picture": next(map(str, written), None)})
    if not json:
        _show(written)
    output.warn(curve.warnings)
    pieces.close()


def _places(asked: Sequence[Sample], out: Path) -> list[Path]:
    return [out / f"{stem}-adversarial.png" for stem in stems(asked)]


def _as_many(pictures: Sequence[Path], names: Sequence[str], out: Path) -> Sequence[Path]:
    """A place for every sample: a photograph has as many as there are detections."""
    from abe.report.view import stems as stems_of

    if len(pictures) == len(names):
        return pictures
    return [out / f"{stem}-adversarial.png" for stem in stems_of(names)]


def _written(images: Sequence[Any], places: Sequence[Path], pieces: exits.Pieces) -> list[Path]:
    """The changed photographs as PNG files."""
    from io import BytesIO

    from abe.storage import write

    written: list[Path] = []
    for image, path in zip(images, places, strict=True):
        buffer = BytesIO()
        with pieces.piece(str(path)):
            image.save(buffer, format="PNG")
            written.append(write(path, buffer.getvalue()))
    return written


def _show(written: Sequence[Path]) -> None:
    for path in written:
        output.line("", str(path))
