"""``abe zoo``: what can be used offline, where its files lie, and models that are trained here."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from abe.cli import options, output

Kind = Literal[
    "image-model",
    "detector",
    "text-model",
    "pair-model",
    "language-model",
    "image",
    "text",
    "table",
    "series",
]
Name = Annotated[str, Parameter(help="A name from `abe zoo`.")]
Folder = Annotated[
    Path | None,
    Parameter(help="Where Tux Paint's stamps lie, or where trained models are kept.", show_default=False),
]


def listed(
    *,
    kind: Annotated[Kind | None, Parameter(help="Only these.", show_default=False)] = None,
    json: options.Json = False,
) -> None:
    """List models and data that can be used offline, and what installs them."""
    from abe.task.zoo import zoo

    entries = [entry for entry in zoo() if kind in (None, entry.kind)]
    if json:
        output.emit([_described(entry) for entry in entries])
        return
    from rich.text import Text

    from abe.terminal import Sentences

    rows = [
        (
            Text(entry.name, style="bold"),
            Text(entry.kind),
            Text(_size(entry.size), justify="right"),
            Text("yes" if entry.installed else "no"),
            _said(entry),
        )
        for entry in entries
    ]
    screen = output.console()
    screen.print(Sentences(("name", "kind", "size", "installed", "what"), rows))
    screen.print("abe zoo get NAME checks its files and says where they lie.", style="dim")


def get(name: Name, /, *, folder: Folder = None, json: options.Json = False) -> None:
    """Check the files of something of the zoo and say where they lie. Nothing is downloaded."""
    from abe.task import zoo

    found = zoo.get(name, folder=folder)
    if json:
        files = [{"path": str(path), "bytes": size, "sha256": digest} for path, size, digest in found]
        output.emit({**_described(zoo.entry(name)), "files": files})
        return
    for path, size, digest in found:
        output.line(f"{digest[:16]}  {_size(size):>8}  ", str(path))
    n = len(found)
    output.remark(f"{n} file{'s' * (n != 1)} with the SHA-256 that ABE knows.")


def train(
    name: Name,
    /,
    *,
    folder: Folder = None,
    stamps: Annotated[
        Path | None, Parameter(help="Where Tux Paint's stamps lie, for two-tower.", show_default=False)
    ] = None,
    again: Annotated[bool, Parameter(help="Train anew where there is one.", show_default=False)] = False,
    json: options.Json = False,
) -> None:
    """Train a model of the zoo on this machine and keep it in the user's cache.

    It takes from half a minute to a quarter of an hour on two cores. Broken off, it leaves nothing behind.
    """
    from abe.task import zoo

    record = zoo.train(name, folder=folder, stamps=stamps, again=again)
    place = zoo.cache_folder(folder) / record.name
    if json:
        kept = {key: value for key, value in vars(record).items() if key != "words"}
        words = {"vocabulary": len(record.words)} if isinstance(record, zoo.Record) else {}
        output.emit({**kept, **words, "folder": str(place)})
        return
    output.line("kept in ", str(place))
    output.console().print(record.said())


def _described(entry: Any) -> dict[str, Any]:
    names = ("name", "kind", "title", "licence", "source", "size", "installed", "missing", "command")
    packages = {one.dist: one.version or None for one in entry.packages}
    return {**{key: getattr(entry, key) for key in names}, "packages": packages, "trained": entry.trained}


def _said(entry: Any) -> Any:
    from rich.text import Text

    said = Text(entry.title).append(f"\n{entry.source}. Licence: {entry.licence}.", style="dim")
    return said if entry.installed else said.append(f"\n{entry.command}", style="yellow")


def _size(count: int) -> str:
    """Bytes in the unit that suits them."""
    if not count:
        return ""
    for unit, size in (("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
