"""``abe trust``."""

from collections.abc import Sequence

from abe.cli import inputs, output


def run(
    photos: Sequence[str],
    options: inputs.ModelOptions,
    *,
    methods: str | None,
    constructions: str | None,
    steps: int,
    seed: int,
    json: bool,
) -> None:
    """Build boundary pairs from photographs and print how methods do on them."""
    paths = inputs.photos(photos)
    from abe import registry
    from abe.metrics.trust import CONSTRUCTIONS, trust
    from abe.task.image import load_image

    wanted = inputs.names(methods)
    for name in wanted or ():
        registry.methods.get(name)
    for path in paths:
        load_image(path)  # an unreadable one is refused before the model is loaded
    task = inputs.task_of(options)
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
