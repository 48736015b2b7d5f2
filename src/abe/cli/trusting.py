"""``abe trust``."""

from typing import Annotated

from cyclopts import Parameter

from abe.cli import inputs, options, output, questions
from abe.cli.given import batch, check, fit, samples


def run(
    words: options.Inputs = None,
    /,
    *,
    methods: Annotated[options.Names, Parameter(show_default="eight")] = None,
    constructions: Annotated[str | None, Parameter(show_default="all")] = None,
    steps: Annotated[int, options.at_least(1)] = 100,
    seed: options.Seed = 0,
    given: options.InputOptions = options.DEFAULT_INPUT,
    question: options.QuestionOptions = options.DEFAULT_QUESTION,
    model: options.ModelOptions = options.DEFAULT_MODEL,
    json: options.Json = False,
) -> None:
    """Compare methods at pairs of points on either side of the decision boundary.

    Prints distances to the ground truth there, and between the maps of both points.

    Args:
        constructions: Boundary pairs: sign, l2, segment, separated by commas.
        steps: Most steps of the sign attack.
    """
    asked = samples(words, given)
    from abe.metrics.trust import CONSTRUCTIONS, trust

    wanted = inputs.methods(methods)
    check(asked, model)
    task = inputs.task_of(model, asked, without=given.without, question=question)
    fit(task, asked, model)
    found = trust(
        task,
        batch(task, asked),
        wanted,
        constructions=inputs.names(constructions) or CONSTRUCTIONS,
        steps=steps,
        seed=seed,
        **questions.asked_of(task, question),
    )
    if json:
        output.emit(found.to_dict())
    else:
        output.console().print(found.table())
    output.warn([*found.warnings, *(f"{name}: {why}" for name, why in found.failures.items())])
