"""The commands by name, their examples, and the one place where their errors become messages."""

import os
import sys
from collections.abc import Callable, Sequence
from inspect import cleandoc
from textwrap import fill
from typing import Annotated, Any

from cyclopts import App, Parameter

from abe._version import __version__
from abe.cli import (
    attacking,
    comparing,
    evaluating,
    exits,
    explaining,
    options,
    output,
    recommending,
    trusting,
    zooing,
)
from abe.errors import Code

EXITS = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in exits.MEANING.items()) + "."
EXAMPLES = {
    "": (
        "demo",
        "explain cat.jpg --method ig --param steps=100",
        "compare cat.jpg dog.jpg --methods ig,gradient,smoothgrad --out report",
        "methods ig",
    ),
    "explain": (
        "explain cat.jpg",
        "explain cat.jpg -k smoothgrad -p samples=25 -t 'tabby cat'",
        "explain 'a charming journey' -m mycode:text_task",
        "explain 'a charming journey' -m mycode:network --tokenizer mycode:tokenizer",
        "explain rows.csv --row 3 -m mycode:network --background rows.csv -k shapley",
        "explain trace.csv -m mycode:network --axes btc",
        "explain scans.npy --row 0 -m mycode:network --axes bcdhw",
        "explain street.jpg -m mycode:segmentation --at 120,260",
        "explain street.jpg -m yolov3-tiny --detection 0",
        "explain --input image=dog.jpg --input meta=rows.csv --row 3 -m mycode:task",
        "explain cat.jpg -m mycode:network --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size 224",
        "explain cat.jpg -m mycode:resnet --model-arg depth=18 --weights resnet18.safetensors",
        "explain *.jpg --json > maps.json",
    ),
    "trust": (
        "trust cat.jpg dog.jpg",
        "trust *.jpg --methods gradient,ig,mfaba --constructions sign,segment --json > trust.json",
    ),
    "compare": (
        "compare cat.jpg dog.jpg",
        "compare cat.jpg --methods ig,gradient,smoothgrad --metrics insertion,deletion --step 5%",
        "compare cat.jpg --methods all --step 5%",
        "compare reviews.txt -m mycode:text_task --methods ig,occlusion",
        "compare rows.csv --row 0:20 -m mycode:table_task",
        "compare traces.npy --row 0:8 -m mycode:series_task --methods ig,occlusion",
        "compare *.jpg --json > scores.json",
    ),
    "recommend": (
        "recommend *.jpg",
        "recommend *.jpg --methods ig,smoothgrad,shapley --criteria gap,seconds --budget 5min",
        "recommend reviews.txt -m mycode:text_task --criteria realtime",
        "recommend *.jpg --json > recommendation.json",
    ),
    "evaluate": (
        "explain *.jpg -k ig --save --out maps",
        "explain *.jpg -k gradient --save --out maps",
        "evaluate maps/*-integrated_gradients maps/*-gradient",
        "evaluate captum=a.npy quantus=b.npz -f cat.jpg -f dog.jpg --metrics insertion,deletion",
        "evaluate maps/*-ig --metrics relevance_mass --masks masks.npy --json",
        "evaluate maps/*-ig maps/*-shapley -m mycode:table_task",
    ),
    "attack": (
        "attack cat.jpg",
        "attack cat.jpg -k mim --eps 4/255 -t 'tabby cat'",
        "attack 'a charming journey' -m mycode:text_task --eps 0.5",
        "attack rows.csv --row 3 -m mycode:table_task --eps 0.1",
        "attack *.jpg --epsilons 1/255,2/255,4/255,8/255 --json > robustness.json",
    ),
    "methods": ("methods", "methods ig", "methods --json"),
    "metrics": ("metrics", "metrics insertion"),
    "attacks": ("attacks", "attacks pgd"),
    "zoo": ("zoo", "zoo list --kind table", "zoo get mobilenet-v2", "zoo train sentiment-textcnn"),
    "demo": ("demo", "demo --photographs rocket --methods sg,ig", "demo --out report --step 2%"),
}

ZOO = "List models and data that can be used offline, check their files, or train a text model here."
ZOO_COMMANDS = {"list": zooing.listed, "get": zooing.get, "train": zooing.train}

Name = Annotated[str | None, Parameter(help="Show everything about this one.")]


def methods(name: Name = None, /, *, json: options.Json = False) -> None:
    """List the attribution methods, or show one with its parameters, guarantees and sources."""
    from abe.cli import listing

    listing.run("method", name, json=json)


def metrics(name: Name = None, /, *, json: options.Json = False) -> None:
    """List the metrics, or show one with its formula, direction and pitfalls."""
    from abe.cli import listing

    listing.run("metric", name, json=json)


def attacks(name: Name = None, /, *, json: options.Json = False) -> None:
    """List the attacks and other updates, or show one with its parameters."""
    from abe.cli import listing

    listing.run("update", name, json=json)


def app(words: Sequence[str] | None = None) -> None:
    """Run what the words after ``abe`` ask for; ends in SystemExit with the exit code."""
    commands = App(
        name="abe",
        help="Explain the decisions of a PyTorch model, and measure how far to trust the explanation.",
        help_flags=("--help", "-h"),
        help_format="plaintext",
        help_epilogue=_epilogue(""),
        version=f"abe {__version__}",
        default_parameter=Parameter(negative=()),
    )
    bodies = {
        "explain": explaining.run,
        "trust": trusting.run,
        "compare": comparing.run,
        "evaluate": evaluating.run,
        "recommend": recommending.run,
        "attack": attacking.run,
        **{body.__name__: body for body in (methods, metrics, attacks)},
        "demo": comparing.demo,
    }
    for order, (name, body) in enumerate(bodies.items()):
        commands.command(body, name=name, sort_key=order, help=_said(body), help_epilogue=_epilogue(name))
    zoo = App(name="zoo", help=ZOO, help_epilogue=_epilogue("zoo"), version_flags=(), sort_key=len(bodies))
    zoo.default(zooing.listed)
    for name, body in ZOO_COMMANDS.items():
        zoo.command(body, name=name, help_epilogue=EXITS)
    commands.command(zoo)
    ours = {*bodies.values(), *ZOO_COMMANDS.values()}

    @commands.meta.default
    def launch(
        *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        debug: Annotated[bool, Parameter(help="Show the traceback of an error.", show_default=False)] = False,
    ) -> None:
        if not words:
            commands.help_print([])
            raise SystemExit(exits.OK)
        command, bound, _ = commands.parse_args(words)
        if command not in ours:  # --help and --version
            command(*bound.args, **bound.kwargs)
            return
        with output.results_only(), exits.told(debug):
            command(*bound.args, **bound.kwargs)

    commands.meta(words)


def _epilogue(command: str) -> str:
    examples = (fill(f"  abe {one}", 80, subsequent_indent="    ") for one in EXAMPLES[command])
    return "\n".join(["Examples:", *examples, "", EXITS])


def _said(body: Callable[..., Any]) -> str:
    """What a command does, a line for every paragraph, so that it wraps where the terminal ends."""
    parts = cleandoc(body.__doc__ or "").split("\nArgs:")[0].split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts if part.strip())


def main() -> None:
    """Entry point of the command ``abe``."""
    output.spell_out()
    if sys.stdout is None:  # closed by the caller
        fix = f"Redirect it to a file or {os.devnull}."
        exits.complain(f"Error: Standard output is closed. {fix} [{Code.NOT_WRITTEN.value}]")
        raise SystemExit(exits.STORAGE)
    try:
        app()
    except BrokenPipeError:  # `abe methods | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(exits.OK) from None
