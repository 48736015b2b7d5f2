"""``abe methods``, ``abe metrics`` and ``abe attacks``."""

import inspect
from dataclasses import asdict
from typing import Any, Literal

from abe.cli import output

GIVEN = {"mask": " --masks masks.npy", "label": " --truth CLASS,..."}
"""Options that bring what a metric needs."""
ARROWS = {"higher": "↑ higher is better", "lower": "↓ lower is better"}


def run(kind: Literal["method", "metric", "update"], name: str | None, *, json: bool) -> None:
    """List all entries of a kind, or show one."""
    from abe import registry

    kinds = {"method": registry.methods, "metric": registry.metrics, "update": registry.updates}
    entries: registry.Registry = kinds[kind]
    if name is not None:
        entry = entries.get(name)
        output.emit(as_dict(entry)) if json else _card(kind, entry)
    elif json:
        output.emit([as_dict(entry) for entry in entries.entries()])
    else:
        _list(kind, entries.entries())


def as_dict(entry: Any) -> dict[str, Any]:
    """A registered entry with its card and parameters."""
    from abe.spec import describe

    parameters = [
        {
            "name": name,
            "required": parameter.default is inspect.Parameter.empty,
            "default": None if parameter.default is inspect.Parameter.empty else describe(parameter.default),
            "type": _annotation(parameter),
        }
        for name, parameter in entry.parameters().items()
    ]
    card = {**asdict(entry.card), "expected_failures": dict(entry.card.expected_failures)}
    card["example"] = describe(dict(entry.card.example))
    return {**card, "aliases": list(entry.aliases), "parameters": parameters}


def _annotation(parameter: inspect.Parameter) -> str:
    from abe.checks import unannotated

    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return str(unannotated(annotation)).replace("typing.", "").replace("abe.types.", "")


def _list(kind: str, entries: list[Any]) -> None:
    from rich.text import Text

    from abe.terminal import Sentences

    columns = ("name", "short", "summary") if kind != "metric" else ("name", "short", "", "summary")
    rows = []
    for entry in entries:
        way = [] if kind != "metric" else [(ARROWS.get(entry.card.direction) or " ")[0]]
        cells = [*entry.aliases[:1], *[""][: not entry.aliases], *way, entry.card.summary]
        rows.append((Text(entry.name, style="bold"), *map(Text, cells)))
    screen = output.console()
    screen.print(Sentences(columns, rows))
    shown = "attacks" if kind == "update" else f"{kind}s"
    screen.print(f"abe {shown} NAME shows one with its parameters.", style="dim")


def _card(kind: str, entry: Any) -> None:
    """Everything about one entry, as a page of text."""
    from rich.table import Table
    from rich.text import Text

    card, said, screen = entry.card, entry.documented, output.console()
    also = f"  also {', '.join(entry.aliases)}" if entry.aliases else ""
    screen.print(Text(card.title, style="bold").append(f"   {entry.name}{also}", style="dim"))
    screen.print(Text(said.summary))
    for note in said.notes:
        screen.print(Text("\n" + plain(note)))
    screen.print()
    facts = Table.grid(padding=(0, 2))
    for wraps in (False, True):
        facts.add_column(no_wrap=not wraps, overflow="fold")
    for label, text in _facts(card, said):
        facts.add_row(Text(label, style="dim"), Text(text))
    screen.print(facts)
    if entry.parameters():
        screen.print()
        screen.print(_parameters(entry))
    if kind == "metric":
        asked = "".join(GIVEN[need] for need in card.needs if need in GIVEN)
        screen.print()
        screen.print(Text(f"abe evaluate MAPS --metrics {entry.name}{asked}", style="dim"))
    if kind == "method":
        example = " ".join(
            f"-p {n}={p.default}" for n, p in list(entry.parameters().items())[:1] if _simple(p)
        )
        screen.print()
        screen.print(Text(f"abe explain PHOTO --method {entry.name} {example}".rstrip(), style="dim"))


def _simple(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool)


def _facts(card: Any, said: Any) -> list[tuple[str, str]]:
    """What help says in sections, and what only lists and tables need."""
    sections = [
        (title.lower(), "\n".join(plain(text) for text in texts))
        for title, texts in said.sections.items()
        if title not in ("Raises", "Example")
    ]
    lists = (
        ("family", (card.family,) * bool(card.family)),
        ("needs", card.needs),
        ("runs on", card.modalities),
        ("reformulations", card.reformulations),
    )
    return sections + [(label, ", ".join(items)) for label, items in lists if items]


def plain(text: str) -> str:
    """Text without the quotation marks of code."""
    return text.replace("``", "").replace("`", "")


def _parameters(entry: Any) -> Any:
    from rich.text import Text

    from abe.terminal import Sentences

    about = entry.documented.parameters
    rows = []
    for name, parameter in entry.parameters().items():
        required = parameter.default is inspect.Parameter.empty
        default = Text("required", style="bold") if required else Text(repr(parameter.default))
        rows.append((Text(name), default, Text(plain(about.get(name, _annotation(parameter))))))
    return Sentences(("parameter", "default", "meaning"), rows)
