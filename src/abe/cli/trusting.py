"""``abe trust``."""

from typing import Annotated

from cyclopts import Parameter

from abe.cli import inputs, options, output


def run(
    photos: options.Photos,
    /,
    *,
    methods: Annotated[options.Names, Parameter(show_default="eight")] = None,
    constructions: Annotated[str | None, Parameter(show_default="all")] = None,
    steps: Annotated[int, options.at_least(1)] = 100,
    seed: options.Seed = 0,
    model: options.ModelOptions = options.DEFAULT_MODEL,
    json: options.Json = False,
) -> None:
    """Compare methods at pairs of points on either side of the decision boundary.

    Prints distances to the ground truth there, and between the maps of both points.

    Args:
        constructions: Boundary pairs: sign, l2, segment, separated by commas.
        steps: Most steps of the sign attack.
    """
    paths = inputs.photos(photos)
    from abe.metrics.trust import CONSTRUCTIONS, trust
    from abe.task.image import load_image

    wanted = inputs.methods(methods)
    for path in paths:
        load_image(path)  # an unreadable one is refused before the model is loaded
    task = inputs.task_of(model)
    found = trust(
        task,
        [str(path) for path in paths],
        wanted,
        constructions=inputs.names(constructions) or CONSTRUCTIONS,
        steps=steps,
        seed=seed,
    )
    if json:
        output.emit(found.to_dict())
    else:
        output.console().print(found.table())
    output.warn([*found.warnings, *(f"{name}: {why}" for name, why in found.failures.items())])
