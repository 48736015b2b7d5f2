"""``abe methods``, ``abe metrics`` and ``abe zoo``."""

import inspect
import re
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
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("abe.types.", "")


def _list(kind: str, entries: list[Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    columns = ("name", "short", "summary") if kind != "metric" else ("name", "short", "", "summary")
    for column in columns:
        table.add_column(column, no_wrap=column == "name")
    for entry in entries:
        way = [] if kind != "metric" else [(ARROWS.get(entry.card.direction) or " ")[0]]
        cells = [*entry.aliases[:1], *[""][: not entry.aliases], *way, entry.card.summary]
        table.add_row(Text(entry.name, style="bold"), *(Text(cell) for cell in cells))
    screen = output.console()
    screen.print(table)
    shown = "attacks" if kind == "update" else f"{kind}s"
    screen.print(f"abe {shown} NAME shows one with its parameters.", style="dim")


def _card(kind: str, entry: Any) -> None:
    """Everything about one entry, as a page of text."""
    from rich.table import Table
    from rich.text import Text

    card, screen = entry.card, output.console()
    also = f"  also {', '.join(entry.aliases)}" if entry.aliases else ""
    screen.print(Text(card.title, style="bold").append(f"   {entry.name}{also}", style="dim"))
    screen.print(Text(card.summary))
    screen.print()
    facts = Table.grid(padding=(0, 2))
    cost = "" if card.passes else section(inspect.getdoc(entry.factory) or "", "Cost")
    for label, text in [*_facts(card), *([("cost", cost)] if cost else [])]:
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


def _facts(card: Any) -> list[tuple[str, str]]:
    passes = f"{card.passes.forward} forward, {card.passes.backward} backward rows" if card.passes else ""
    passes = f"at most {passes}" if card.passes and card.passes.at_most else passes
    lists = (
        ("guarantees", card.guarantees),
        ("needs", card.needs),
        ("runs on", card.modalities),
        ("reformulations", card.reformulations),
    )
    failures = tuple(f"{law}: {reason}" for law, reason in card.expected_failures.items())
    found = [
        ("formula", card.formula),
        ("direction", ARROWS.get(card.direction, "")),
        ("range", card.range),
        ("source", card.source),
        ("family", card.family),
        *((label, ", ".join(items)) for label, items in lists),
        ("passes", passes),
        ("differs", "\n".join(card.differs)),
        ("pitfalls", "\n".join(card.pitfalls)),
        ("cannot hold", "\n".join(failures)),
    ]
    return [(label, text) for label, text in found if text]


def _parameters(entry: Any) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    about = described(inspect.getdoc(entry.factory) or "")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for column in ("parameter", "default", "meaning"):
        table.add_column(column, no_wrap=column == "parameter")
    for name, parameter in entry.parameters().items():
        required = parameter.default is inspect.Parameter.empty
        default = Text("required", style="bold") if required else Text(repr(parameter.default))
        table.add_row(Text(name), default, Text(about.get(name, _annotation(parameter))))
    return table


def section(docstring: str, name: str) -> str:
    """The text of a section of a Google-style docstring, without the code's quotation marks."""
    found = re.search(rf"^{name}:\n((?:[ \t]+.*\n?|\n)*)", docstring, flags=re.MULTILINE)
    return "" if found is None else " ".join(found[1].split()).replace("``", "")


def described(docstring: str) -> dict[str, str]:
    """The parameters of a Google-style docstring: name (or names) -> description."""
    found: dict[str, str] = {}
    current: list[str] = []
    inside = False
    for line in docstring.splitlines():
        if not line.startswith(" ") and line.strip():
            inside = line.strip() == "Args:"
        elif inside and line.startswith("    ") and not line.startswith("     "):
            names, colon, text = line.strip().partition(":")
            current = [name.strip() for name in names.split(",")] if colon else []
            found |= dict.fromkeys(current, text.strip())
        elif inside and line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in current}
    return found


def run_zoo(*, json: bool) -> None:
    """List what can be used offline."""
    from abe.task.zoo import zoo

    entries = zoo()
    if json:
        kept = ("name", "kind", "title", "installed", "missing", "command", "note")
        output.emit([{key: getattr(entry, key) for key in kept} for entry in entries])
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for column in ("name", "kind", "installed", "what"):
        table.add_column(column, no_wrap=column == "name")
    for entry in entries:
        state = "yes" if entry.installed else f"no: {entry.command}"
        table.add_row(Text(entry.name, style="bold"), entry.kind, Text(state), Text(entry.title))
    output.console().print(table)
