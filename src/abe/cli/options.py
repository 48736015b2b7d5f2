"""Options that several commands share, and the model's, which every command that runs one takes as a value.

A command is a function: its parameters are the options, its docstring the help. What is here is written
once and annotated there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter, validators

MODEL = Group("Model", sort_key=1)
OUTPUT = Group("Output", sort_key=2)
INPUT = Group("Inputs that are no photographs", sort_key=0)
QUESTION = Group("Of a segmentation, a detector, captions or a language model", sort_key=0)
SIGNED = Parameter(allow_leading_hyphen=True)
"""Of what may begin with a minus sign, such as a range from -1 to 1."""


def at_least(low: float, most: int = 10**9) -> Parameter:
    """Refuses smaller numbers, and larger ones than can be meant."""
    return Parameter(validator=validators.Number(gte=low, lte=most))


Text = Annotated[str | None, SIGNED]
Inputs = Annotated[
    list[str] | None,
    Parameter(
        help="Photographs; texts in quotation marks; .txt files with a text a line; .csv and .npy files, "
        "with --row for rows.",
        show_default=False,
    ),
]
Names = Annotated[
    str | None,
    Parameter(help="Names from `abe methods`, separated by commas; all runs every one."),
]
Metrics = Annotated[
    str | None,
    Parameter(
        help="Names from `abe metrics`, separated by commas.", show_default="curves, gaps, residual, cost"
    ),
]
Param = Annotated[list[str] | None, Parameter(alias="-p", metavar="NAME=VALUE")]
Target = Annotated[Text, Parameter(alias="-t", help="Class number or name.", show_default="the prediction")]
Objective = Annotated[str, Parameter(help="The explained score: logit, probability, margin ...")]
Step = Annotated[
    Text,
    Parameter(help="Size of one change of the curves: 5%, 0.05, or 2000 positions.", show_default="1%"),
]
Seed = Annotated[int, SIGNED, at_least(0, 2**63 - 1), Parameter(help="Of all random draws.")]
Out = Annotated[Path, Parameter(alias="-o", group=OUTPUT, help="Folder for pictures and pages.")]
Json = Annotated[
    bool,
    Parameter(group=OUTPUT, help="Print JSON, and nothing else, on standard output.", show_default=False),
]


@Parameter(name="*", group=INPUT)
@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """Inputs that a path alone does not name.

    Attributes:
        input: An input of a model with several, NAME=FILE or NAME=TEXT; once for each of them.
        text: A text, where it has one word or ends like a file; may be repeated.
        caption: Of a photograph: what is said of it. One for each photograph, or several for one of which the
            one that fits best is explained.
        row: Rows of a .csv, .txt or .npy file, counted from 0 (below the head of a table): 3, 3,7 or 3:8.
        without: Columns of a .csv file that the model is not given, separated by commas, such as the truth.
    """

    input: list[str] | None = None
    text: list[str] | None = None
    caption: list[str] | None = None
    row: Text = None
    without: Text = None


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What the command line says about the model and its inputs; None keeps the model's own.

    Attributes:
        model: A name from `abe zoo`, package.module:factory, or a folder with a text classifier.
        model_arg: An argument of the factory, NAME=VALUE; may be repeated.
        weights: A file of the model's weights: .safetensors, or what torch.save(model.state_dict()) wrote.
        bounds: Valid range of inputs, before normalisation: 0,1.
        mean: Normalisation, one number or one per channel.
        std: The same for the scale.
        size: Photographs are brought to this many pixels: 224 or 224x320.
        labels: Class names: a text file, one a line, or a JSON list or dict.
        output_kind: What outputs are: logits, probabilities, sigmoid, multilabel or regression.
        tokenizer: Of a module without a task that reads texts: package.module:factory.
        background: Of one that reads rows: a .csv file of rows that it is used on.
        axes: Of one that reads series or arrays, a letter for each: btc, bct, bcdhw.
    """

    model: Annotated[
        str,
        Parameter(
            alias="-m",
            help="A name from `abe zoo`; package.module:factory, imported with the current folder in reach, "
            "which returns an nn.Module, a task or a pipeline of Hugging Face; or a folder with a text "
            "classifier and its tokenizer, as save_pretrained wrote them.",
        ),
    ] = "efficientnet-lite0"
    model_arg: Annotated[
        list[str] | None,
        Parameter(metavar="NAME=VALUE", help="An argument of the factory; may be repeated: depth=18."),
    ] = None
    weights: Path | None = None
    bounds: Text = None
    mean: Text = None
    std: Text = None
    size: Text = None
    labels: Path | None = None
    output_kind: Text = None
    tokenizer: str | None = None
    background: Path | None = None
    axes: str | None = None


@Parameter(name="*", group=QUESTION)
@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """What is asked; by default the class that covers most, detection 0, or what is generated next.

    Attributes:
        generate: Of a language model, this many tokens of its own answer; 1 by default.
        answer: Of a language model, this answer instead of its own, as it goes on behind the prompt.
        at: The connected zone under a pixel: ROW,COLUMN.
        label: All pixels that are predicted as this class, or with --region or --box this class there.
        region: A file of a mask (h, w): .npy, .npz or .safetensors.
        against: The class minus this one; of a photograph with a caption that minus this other caption; of a
            language model the answer's tokens minus this answer's.
        detection: Of a detector the number of a detection: 0, several as 0,2, or all.
        box: A box of your own, such as that of an object that was missed: LEFT,TOP,RIGHT,BOTTOM.
        part: What of it is read: match, class, box, left, top, right or bottom.
    """

    generate: Text = None
    answer: Text = None

    at: Text = None
    label: Text = None
    region: Path | None = None
    against: Text = None
    detection: Text = None
    box: Text = None
    part: Text = None


DEFAULT_QUESTION = QuestionOptions()
DEFAULT_MODEL = ModelOptions()
DEFAULT_INPUT = InputOptions()
