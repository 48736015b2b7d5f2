"""``abe recommend``: which method to believe, by a race within a budget."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from abe.cli import exits, inputs, options, output, questions, ready
from abe.cli.given import batch, check, fit, samples

PICTURE, RECORD = "recommendation.png", "recommendation.json"


def run(
    words: options.Inputs = None,
    /,
    *,
    methods: Annotated[options.Names, Parameter(show_default="some of every family")] = None,
    criteria: Annotated[
        str,
        Parameter(
            help="faithful, medical, debugging or realtime; or names from `abe metrics`, separated by "
            "commas, the one that decides first."
        ),
    ] = "faithful",
    budget: Annotated[str, Parameter(help="Time that the race may take: 90s, 2min, 1h.")] = "2min",
    truth: Annotated[
        options.Names,
        Parameter(help="True classes, one for each input, separated by commas, for criteria that need them."),
    ] = None,
    target: options.Target = None,
    objective: options.Objective | None = None,
    seed: options.Seed = 0,
    given: options.InputOptions = options.DEFAULT_INPUT,
    question: options.QuestionOptions = options.DEFAULT_QUESTION,
    model: options.ModelOptions = options.DEFAULT_MODEL,
    out: options.Out = Path("out"),
    json: options.Json = False,
) -> None:
    """Say which method to believe for a model and inputs, how surely, and what to call.

    Methods race over the inputs: all see the same ones, and who cannot be the best by any criterion drops
    out. A random explainer and an edge detector run along. Inputs should be thirty or more; with fewer, most
    methods are not told apart, and the answer says how many would tell. Prints the sentence and a table, and
    writes a picture and a record. Interrupted by Ctrl-C, it says what is known so far.
    """
    asked = samples(words, given)
    from abe.theory.criteria import PRESETS
    from abe.theory.recommend import recommend, seconds_of

    seconds_of(budget)
    wanted = inputs.methods(methods)
    measured: Any = criteria if criteria in PRESETS else inputs.metrics(criteria)
    draw = ready.drawing("matplotlib", optional=json)
    files = [one.path for one in asked if one.path is not None]
    ready.place(out, [out / RECORD, *([out / PICTURE] if draw else [])], inputs=files)
    check(asked, model)
    task = inputs.task_of(model, asked, without=given.without, question=question)
    fit(task, asked, model)
    chosen, further = inputs.target_of(task, target), questions.asked_of(task, question)
    classes = None if truth is None else [_class(task, one) for one in truth.split(",")]
    output.remark(f"At most {budget} for {len(asked)} inputs; Ctrl-C ends it with what is known by then.")
    choice = recommend(
        task,
        batch(task, asked),
        wanted,
        measured,
        budget=budget,
        target=chosen,
        labels=classes,
        objective=objective,
        seed=seed,
        **further,
    )
    _finish(choice, out, draw=draw, json=json)


def _class(task: Any, word: str) -> int:
    word = word.strip()
    return int(word) if word.isdigit() else task.class_index(word)


def _finish(choice: Any, out: Path, *, draw: bool, json: bool) -> None:
    pieces = exits.Pieces()
    if not json:
        with pieces.piece("standard output"):
            output.console().print(choice.table())
            output.line("", choice.call)
    with pieces.piece(RECORD):
        choice.save(out / RECORD)
    if draw:
        with pieces.piece(PICTURE):
            choice.plot(out / PICTURE)
    if json:
        output.emit(choice.to_dict())
    else:
        for name in (RECORD, *([PICTURE] if draw else [])):
            output.line("", str(out / name))
    output.warn(choice.warnings)
    pieces.close()
    if choice.interrupted:
        raise KeyboardInterrupt
