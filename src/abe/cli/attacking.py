"""``abe attack``."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abe.cli import inputs, output
from abe.errors import Code, SpecError

FIGURE = "robustness.png"


def run(
    photos: Sequence[str],
    options: inputs.ModelOptions,
    *,
    method: str,
    eps: str | None,
    norm: str | None,
    steps: int | None,
    epsilons: str | None,
    param: Sequence[str],
    target: str | None,
    restarts: int,
    seed: int,
    out: Path,
    json: bool,
) -> None:
    """Attack photographs, or measure the accuracy over radii; print the result and write pictures."""
    paths = inputs.photos(photos)
    params = inputs.parameters(param)
    radii = None if epsilons is None else [number("epsilons", part) for part in epsilons.split(",")]
    if eps is not None:
        params["eps"] = number("eps", eps)
    if norm is not None:
        params["norm"] = norm
    _refuse_both(radii, eps, target)
    from abe.report.files import check_folder

    check_folder(out)
    from abe.registry import updates
    from abe.task.image import load_image

    updates.get(method)
    for path in paths:
        load_image(path)  # an unreadable one is refused before the model is loaded
    task = inputs.task_of(options)
    names = [str(path) for path in paths]
    settings: dict[str, Any] = {"steps": steps, "restarts": restarts, "seed": seed, **params}
    if radii is not None:
        _evaluate(task, names, method, radii, settings, out, json=json)
        return
    from abe.robustness import attack

    result = attack(task, names, method, target=inputs.target_of(task, target), **settings)
    written = _pictures(result, task, paths, out)
    if json:
        output.emit({**result.to_dict(), "pictures": [str(path) for path in written]})
    else:
        _show(result.table(), written)
    output.warn(result.warnings)


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
            got=repr(text),
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


def _evaluate(
    task: Any,
    names: list[str],
    method: str,
    radii: list[float],
    settings: dict[str, Any],
    out: Path,
    *,
    json: bool,
) -> None:
    from abe.report.robustness import plot_curve
    from abe.robustness import evaluate_robustness

    curve = evaluate_robustness(task, names, method, epsilons=radii, **settings)
    path = out / FIGURE
    plot_curve(curve, path=path)
    if json:
        output.emit({**curve.to_dict(), "picture": str(path)})
    else:
        _show(curve.table(), [path])
    output.warn(curve.warnings)


def _pictures(result: Any, task: Any, paths: Sequence[Path], out: Path) -> list[Path]:
    """The changed photographs as PNG files; colours are rounded to bytes."""
    from io import BytesIO

    from PIL import Image

    from abe.report.files import write
    from abe.report.view import stems

    written: list[Path] = []
    low, high = task.bounds or (result.x_adv.amin(), result.x_adv.amax())
    shares = (result.x_adv - low) / (high - low)
    for x, stem in zip(shares, stems([path.name for path in paths]), strict=True):
        pixels = (x * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        buffer = BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
        written.append(write(out / f"{stem}-adversarial.png", buffer.getvalue()))
    return written


def _show(table: Any, written: Sequence[Path]) -> None:
    screen = output.console()
    screen.print(table)
    for path in written:
        screen.print(str(path), markup=False, soft_wrap=True)
