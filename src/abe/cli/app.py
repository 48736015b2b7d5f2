"""Commands, their options and their help. Bodies import what they need when they run."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from abe.cli import exits
from abe.cli.exits import guarded

EXITS = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in exits.MEANING.items()) + "."

EXAMPLES = """Examples:

abe demo

abe explain cat.jpg --method ig --param steps=100

abe compare cat.jpg dog.jpg --methods ig,gradient,smoothgrad --out report

abe methods ig
"""

app = typer.Typer(
    name="abe",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXITS,
)

MODEL_PANEL = "Model"
OUTPUT_PANEL = "Output"

Photos = Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Image files.", show_default=False)]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A name from [bold]abe zoo[/], or package.module:factory, imported with the current folder in "
        "reach; the factory takes nothing and returns an nn.Module or a task.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Bounds = Annotated[
    str | None,
    typer.Option(help="Valid range of inputs, before normalisation: 0,1.", rich_help_panel=MODEL_PANEL),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Normalisation, one number or one per channel.", rich_help_panel=MODEL_PANEL),
]
Std = Annotated[str | None, typer.Option(help="The same for the scale.", rich_help_panel=MODEL_PANEL)]
Size = Annotated[
    str | None,
    typer.Option(
        help="Photographs are brought to this many pixels: 224 or 224x320.", rich_help_panel=MODEL_PANEL
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(help="Class names: a text file, one a line, or a JSON list.", rich_help_panel=MODEL_PANEL),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="Class number or name; the prediction by default.",
        show_default="the prediction",
    ),
]
ObjectiveName = Annotated[str, typer.Option(help="The explained score: logit, probability, margin ...")]
Seed = Annotated[int, typer.Option(help="Of all random draws.", min=0)]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for pictures and pages.", rich_help_panel=OUTPUT_PANEL)
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print JSON, and nothing else, on standard output.", rich_help_panel=OUTPUT_PANEL
    ),
]
Step = Annotated[
    str | None,
    typer.Option(help="Size of one change of the curves: 5%, 0.05, or 2000 positions.", show_default="1%"),
]


def _version(wanted: bool) -> bool:
    if wanted:
        from abe._version import __version__

        typer.echo(f"abe {__version__}")
        raise typer.Exit()
    return wanted


@app.callback(epilog=EXAMPLES + "\n" + EXITS)
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Explain the decisions of a PyTorch model, and measure how far to trust the explanation."""
    exits.debugging = debug


@app.command(
    epilog="Examples:\n\nabe explain cat.jpg\n\n"
    "abe explain cat.jpg -k smoothgrad -p samples=25 -t 'tabby cat'\n\n"
    "abe explain cat.jpg -m mycode:network --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size 224\n\n"
    "abe explain *.jpg --json > maps.json\n\n" + EXITS
)
@guarded
def explain(
    photos: Photos,
    method: Annotated[
        str, typer.Option("--method", "-k", help="A name or alias from [bold]abe methods[/].")
    ] = "ig",
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", metavar="NAME=VALUE", help="A parameter of the method; may be repeated."
        ),
    ] = None,
    target: Target = None,
    objective: ObjectiveName = "logit",
    seed: Seed = 0,
    model: Model = "efficientnet-lite0",
    bounds: Bounds = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    labels: Labels = None,
    out: Out = Path("out"),
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Also save the maps, to load with abe.Explanation.load.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Show which pixels of photographs drove the model's decision.

    Prints the prediction, what the map explains of it and what it cost, and writes one picture per
    photograph: the photograph, the signed map, where its magnitude lies, and the top classes.
    """
    from abe.cli import explaining
    from abe.cli.inputs import ModelOptions

    explaining.run(
        photos,
        ModelOptions(model=model, bounds=bounds, mean=mean, std=std, size=size, labels=labels),
        method=method,
        param=param or [],
        target=target,
        objective=objective,
        seed=seed,
        out=out,
        save=save,
        json=json,
    )


@app.command(
    epilog="Examples:\n\nabe trust cat.jpg dog.jpg\n\n"
    "abe trust *.jpg --methods gradient,ig,mfaba --constructions sign,segment --json > trust.json\n\n" + EXITS
)
@guarded
def trust(
    photos: Photos,
    methods: Annotated[
        str | None,
        typer.Option(help="Names from [bold]abe methods[/], separated by commas.", show_default="eight"),
    ] = None,
    constructions: Annotated[
        str | None,
        typer.Option(help="Boundary pairs: sign, l2, segment, separated by commas.", show_default="all"),
    ] = None,
    steps: Annotated[int, typer.Option(help="Most steps of the sign attack.")] = 100,
    seed: Seed = 0,
    model: Model = "efficientnet-lite0",
    bounds: Bounds = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    labels: Labels = None,
    json: Json = False,
) -> None:
    """Compare methods at pairs of points on either side of the decision boundary.

    Prints distances to the ground truth there, and between the maps of both points.
    """
    from abe.cli import trusting
    from abe.cli.inputs import ModelOptions

    trusting.run(
        photos,
        ModelOptions(model=model, bounds=bounds, mean=mean, std=std, size=size, labels=labels),
        methods=methods,
        constructions=constructions,
        steps=steps,
        seed=seed,
        json=json,
    )


@app.command(
    epilog="Examples:\n\nabe compare cat.jpg dog.jpg\n\n"
    "abe compare cat.jpg --methods ig,gradient,smoothgrad --metrics insertion,deletion --step 5%\n\n"
    "abe compare *.jpg --json > scores.json\n\n" + EXITS
)
@guarded
def compare(
    photos: Photos,
    methods: Annotated[
        str | None,
        typer.Option(help="Names from [bold]abe methods[/], separated by commas.", show_default="all"),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Names from [bold]abe metrics[/], separated by commas.",
            show_default="curves, gaps, residual, cost",
        ),
    ] = None,
    step: Step = None,
    target: Target = None,
    objective: ObjectiveName = "logit",
    seed: Seed = 0,
    model: Model = "efficientnet-lite0",
    bounds: Bounds = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    labels: Labels = None,
    out: Out = Path("out"),
    json: Json = False,
) -> None:
    """Explain photographs by several methods, score every map, and rank the methods.

    Prints one ranked table and writes a web page (comparison.html) and a picture per photograph.
    """
    from abe.cli import comparing
    from abe.cli.inputs import ModelOptions

    comparing.run(
        photos,
        ModelOptions(model=model, bounds=bounds, mean=mean, std=std, size=size, labels=labels),
        methods=methods,
        metrics=metrics,
        step=step,
        target=target,
        objective=objective,
        seed=seed,
        out=out,
        json=json,
    )


@app.command(
    epilog="Examples:\n\nabe explain *.jpg -k ig --save --out maps\n\n"
    "abe explain *.jpg -k gradient --save --out maps"
    "\n\nabe evaluate maps/*-integrated_gradients maps/*-gradient\n\n"
    "abe evaluate captum=a.npy quantus=b.npz -f cat.jpg -f dog.jpg --metrics insertion,deletion"
    "\n\nabe evaluate maps/*-ig --metrics relevance_mass --masks masks.npy --json\n\n" + EXITS
)
@guarded
def evaluate(
    maps: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MAPS...",
            help="Folders that [bold]abe explain --save[/] wrote (those of one method belong together), or "
            "arrays of maps made elsewhere: .npy, .npz, .safetensors, one map per --photo.",
            show_default=False,
        ),
    ],
    photo: Annotated[
        list[str] | None,
        typer.Option(
            "--photo",
            "-f",
            help="The explained image file; may be repeated. Saved folders hold their own.",
            show_default="those of the saved maps",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Names from [bold]abe metrics[/], separated by commas.",
            show_default="curves, gaps, residual, cost",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="True regions, for localisation: an array file of (photographs, height, width)."),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(help="True classes, for metrics that need them: names or numbers, separated by commas."),
    ] = None,
    step: Step = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="The class that the maps explain, by number or name.",
            show_default="what the saved maps say, else the prediction",
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of intervals and tests.", min=0.5, max=0.9999)] = 0.95,
    seed: Seed = 0,
    model: Model = "efficientnet-lite0",
    bounds: Bounds = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    labels: Labels = None,
    out: Out = Path("out"),
    json: Json = False,
) -> None:
    """Score maps that exist already, made by ABE or by another library, and test whether they differ.

    Prints means with their intervals and says which maps do not differ; writes the scores
    (comparison.json, to load with abe.Comparison.load) and a picture of them (scores.png).
    Fewer photographs than a test needs are said to be too few.
    """
    from abe.cli import evaluating
    from abe.cli.inputs import ModelOptions

    evaluating.run(
        maps,
        ModelOptions(model=model, bounds=bounds, mean=mean, std=std, size=size, labels=labels),
        photos=photo or [],
        metrics=metrics,
        masks=masks,
        truth=truth,
        step=step,
        target=target,
        confidence=confidence,
        seed=seed,
        out=out,
        json=json,
    )


@app.command(
    epilog="Examples:\n\nabe attack cat.jpg\n\nabe attack cat.jpg -k mim --eps 4/255 -t 'tabby cat'\n\n"
    "abe attack *.jpg --epsilons 1/255,2/255,4/255,8/255 --json > robustness.json\n\n" + EXITS
)
@guarded
def attack(
    photos: Photos,
    method: Annotated[
        str, typer.Option("--attack", "-k", help="A name or alias from [bold]abe attacks[/].")
    ] = "pgd",
    eps: Annotated[
        str | None,
        typer.Option(help="Radius in input units: 8/255 or 0.03.", show_default="the attack's own"),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2.", show_default="linf")] = None,
    steps: Annotated[
        int | None, typer.Option(help="How many steps.", show_default="the attack's own")
    ] = None,
    epsilons: Annotated[
        str | None,
        typer.Option(help="Radii separated by commas: measures accuracy over them instead."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", metavar="NAME=VALUE", help="A parameter of the attack; may be repeated."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Class to aim for.", show_default="away from the prediction"),
    ] = None,
    restarts: Annotated[int, typer.Option(help="Independent runs per photograph.", min=1)] = 1,
    seed: Seed = 0,
    model: Model = "efficientnet-lite0",
    bounds: Bounds = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    labels: Labels = None,
    out: Out = Path("out"),
    json: Json = False,
) -> None:
    """Change photographs a little so that the model decides otherwise, and say how little it took.

    Prints one line per photograph and writes the changed ones; with --epsilons prints and draws the
    accuracy over the radius.
    """
    from abe.cli import attacking
    from abe.cli.inputs import ModelOptions

    attacking.run(
        photos,
        ModelOptions(model=model, bounds=bounds, mean=mean, std=std, size=size, labels=labels),
        method=method,
        eps=eps,
        norm=norm,
        steps=steps,
        epsilons=epsilons,
        param=param or [],
        target=target,
        restarts=restarts,
        seed=seed,
        out=out,
        json=json,
    )


Name = Annotated[str | None, typer.Argument(help="Show everything about this one.", show_default=False)]


@app.command(epilog="Examples:\n\nabe methods\n\nabe methods ig\n\nabe methods --json\n\n" + EXITS)
@guarded
def methods(name: Name = None, json: Json = False) -> None:
    """List the attribution methods, or show one with its parameters, guarantees and sources."""
    from abe.cli import listing

    listing.run("method", name, json=json)


@app.command(epilog="Examples:\n\nabe metrics\n\nabe metrics insertion\n\n" + EXITS)
@guarded
def metrics(name: Name = None, json: Json = False) -> None:
    """List the metrics, or show one with its formula, direction and pitfalls."""
    from abe.cli import listing

    listing.run("metric", name, json=json)


@app.command(epilog="Examples:\n\nabe attacks\n\nabe attacks pgd\n\n" + EXITS)
@guarded
def attacks(name: Name = None, json: Json = False) -> None:
    """List the attacks and other updates, or show one with its parameters."""
    from abe.cli import listing

    listing.run("update", name, json=json)


@app.command(epilog=EXITS)
@guarded
def zoo(json: Json = False) -> None:
    """List models and photographs that can be used offline, and what installs them."""
    from abe.cli import listing

    listing.run_zoo(json=json)


@app.command(epilog="Examples:\n\nabe demo\n\nabe demo --photographs rocket --methods sg,ig\n\n" + EXITS)
@guarded
def demo(
    photographs: Annotated[
        str | None, typer.Option(help="Names of photographs, separated by commas.", show_default="four")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Names from `abe methods`, separated by commas.", show_default="twelve"),
    ] = None,
    out: Out = Path("out"),
    step: Annotated[
        str, typer.Option(help="Size of one change of the curves; smaller is finer and slower.")
    ] = "5%",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Explain four real photographs with a real network by twelve methods, and rank them.

    Uses EfficientNet-Lite0 with its ImageNet weights and photographs of scikit-image, all from
    installed packages; nothing is downloaded. Writes a web page and pictures.
    """
    from abe.cli import comparing

    comparing.demo(photographs, methods, out=out, step=step, seed=seed, json=json)


def main() -> None:
    """Entry point of the command ``abe``."""
    try:
        app(prog_name="abe")
    except BrokenPipeError:  # `abe methods | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(exits.OK) from None
