"""Write the reference pages of methods, metrics, attacks and primitives from their cards, before each build.

Nothing on these pages is written by hand: what a card or docstring does not say, the page does not
say either. The pages land in ``docs/generated``, which is not kept in the repository.
"""

import inspect
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import taxonomy
from docstrings import escape, to_markdown

from abe import registry
from abe.metrics.evaluation.base import as_metric
from abe.registry import Entry, Registry
from abe.types import Card

FACTS = ("Composition", "Shape", "Range", "Guarantees", "Cost")
"""Sections of a line, which a page lists beside what it is called and needs."""
PRIMITIVES = {
    "Objectives": ("what is explained", registry.objectives),
    "Baselines": ("the reference an input is compared with", registry.baselines),
    "Units": ("what is ranked and removed together", registry.units),
    "Paths": ("static ways from a reference to the input", registry.paths),
    "Channel weights": ("what class activation maps differ in", registry.channel_weights),
    "Removals": ("what stands where a unit is absent", registry.removals),
    "Summaries": ("how values of coalitions become one number per unit", registry.summaries),
}


def setup(app: Any) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def generate(app: Any) -> None:
    """Write every page that changed and remove those whose entry is gone."""
    root = Path(app.srcdir) / "generated"
    pages = {
        **{f"methods/{e.name}.md": method_page(e) for e in registry.methods.entries()},
        **{f"metrics/{e.name}.md": metric_page(e) for e in registry.metrics.entries()},
        **{f"updates/{e.name}.md": update_page(e) for e in registry.updates.entries()},
        "parts/methods.md": method_table(registry.methods),
        "parts/taxonomy.md": taxonomy.page(registry.methods.entries(), link, passes, row),
        "parts/updates.md": update_table(registry.updates),
        "parts/metrics.md": metric_table(registry.metrics),
        "parts/primitives.md": primitives(),
        "parts/deviations.md": deviations(),
    }
    for name, text in pages.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in root.rglob("*.md"):
        name = path.relative_to(root).as_posix()
        if name not in pages and not name.startswith("studies/"):
            path.unlink()


def method_page(entry: Entry) -> str:
    """The page of one method."""
    card = entry.card
    facts = {
        "Name": names(entry),
        "Source": source(card),
        "Family": escape(card.family),
        "Reformulations": escape(", ".join(card.reformulations)),
        "Needs": escape(", ".join(card.needs)),
        "Inputs": escape(", ".join(card.modalities)),
    }
    return page(entry, facts, f'exp = abe.explain(task, photo, method="{entry.name}"{example(card)})')


def metric_page(entry: Entry) -> str:
    """The page of one metric."""
    card = entry.card
    given = dict(card.example) if entry.required() else {}
    facts = {
        "Name": names(entry),
        "Source": source(card),
        "Reads of a map": escape(as_metric((entry.name, given)).processing),
        "Needs": escape(", ".join(card.needs)),
        "Inputs": escape(", ".join(card.modalities)),
    }
    truth = "".join(f", {n}s={n}s" for n in card.needs if n in ("mask", "label"))
    call = f'found = abe.evaluate(task, explanations, metrics=["{entry.name}"]{truth})'
    return page(entry, facts, call)


def update_page(entry: Entry) -> str:
    """The page of one attack or other update."""
    card = entry.card
    facts = {
        "Name": names(entry),
        "Source": source(card),
        "Family": escape(card.family),
        "Needs": escape(", ".join(card.needs)),
    }
    given = {**card.example, **{n: "…" for n in entry.required() if n not in card.example}}
    words = "".join(f", {name}={value!r}" for name, value in given.items())
    update = f'("{entry.name}", {given!r})' if given else f'"{entry.name}"'
    call = f'exp = abe.explain(task, photo, "path_attribution", update={update})'
    if card.family:
        call = f'found = abe.attack(task, photo, "{entry.name}"{words})\n{call}'
    return page(entry, facts, call)


def page(entry: Entry, facts: dict[str, str], call: str) -> str:
    """Title, what help says, and what only a page needs: facts, a call, defaults."""
    card, said = entry.card, entry.documented
    facts |= {title: escape(" ".join(said.sections.get(title, ()))) for title in FACTS}
    parts = [f"# {escape(card.title)}", escape(said.summary)]
    parts.append("\n".join(f":{key}: {text}" for key, text in facts.items() if text))
    if card.formula:
        parts.append(formula(card.formula))
    parts.append(f"```python\n{call}\n```")
    parts.append(parameters(entry, said.parameters))
    parts.append(to_markdown(said, leave_out=(*FACTS, "Formula", "Source")))
    return "\n\n".join(part for part in parts if part) + "\n"


def parameters(entry: Entry, described: Mapping[str, str]) -> str:
    """A table of the factory's parameters, with defaults from the signature."""
    rows = [
        row(f"`{name}`", default(p), escape(described.get(name, "")))
        for name, p in entry.parameters().items()
    ]
    if not rows:
        return "It has no parameters."
    return "\n".join(["| parameter | default | meaning |", "| --- | --- | --- |", *rows])


def default(parameter: inspect.Parameter) -> str:
    """The default as code, or that there is none."""
    if parameter.default is inspect.Parameter.empty:
        return "required"
    return f"`{parameter.default!r}`"


def method_table(kind: Registry) -> str:
    """All methods on one screen."""
    head = ["| method | explains by | guarantees | passes | source |", "| --- | --- | --- | --- | --- |"]
    rows = [
        row(
            f"{link(e, 'methods')}<br>`{e.name}`",
            escape(e.card.summary),
            ", ".join(e.card.guarantees).replace("_", " "),
            passes(e.card),
            source(e.card),
        )
        for e in kind.entries()
    ]
    return "\n".join(head + rows) + "\n"


def update_table(kind: Registry) -> str:
    """All attacks and other updates on one screen."""
    head = ["| attack | moves by | family | source |", "| --- | --- | --- | --- |"]
    rows = [
        row(
            f"{link(e, 'updates')}<br>`{e.name}`",
            escape(e.card.summary),
            escape(e.card.family or "update of a path"),
            source(e.card),
        )
        for e in kind.entries()
    ]
    return "\n".join(head + rows) + "\n"


def metric_table(kind: Registry) -> str:
    """All metrics on one screen."""
    arrow = {"higher": "↑", "lower": "↓", None: ""}
    head = ["| metric | measures | better | range | source |", "| --- | --- | --- | --- | --- |"]
    rows = [
        row(
            f"{link(e, 'metrics')}<br>`{e.name}`",
            escape(e.card.summary),
            arrow[e.card.direction],
            escape(e.card.range),
            source(e.card),
        )
        for e in kind.entries()
    ]
    return "\n".join(head + rows) + "\n"


def primitives() -> str:
    """One table per kind of primitive that has entries."""
    parts = []
    for title, (what, kind) in PRIMITIVES.items():
        rows = [
            row(
                names(e),
                escape(e.card.summary),
                ", ".join(f"`{n}`" for n in e.parameters()),
                source(e.card),
            )
            for e in kind.entries()
        ]
        if rows:
            head = ["| name | meaning | parameters | source |", "| --- | --- | --- | --- |"]
            parts.append("\n".join([f"## {title}: {what}\n", *head, *rows]))
    return "\n\n".join(parts) + "\n"


def deviations() -> str:
    """Every ``differs`` entry of every card."""
    rows = [
        row(link(e, f"{kind.kind}s"), escape(text), source(e.card))
        for kind in (registry.methods, registry.metrics, registry.updates)
        for e in kind.entries()
        for text in e.card.differs
    ]
    return "\n".join(["| entry | what differs | source |", "| --- | --- | --- |", *rows]) + "\n"


def names(entry: Entry) -> str:
    """The name and its aliases as code."""
    aliases = ", ".join(f"`{alias}`" for alias in entry.aliases)
    return f"`{entry.name}`" + (f" (also {aliases})" if aliases else "")


def source(card: Card) -> str:
    """``"key2017, Eq. 1; key2019"`` with its keys as citations."""
    return "; ".join(filter(None, (_cite(item.strip()) for item in card.source.split(";"))))


def _cite(item: str) -> str:
    """A citation where the first word is a key of the bibliography, or looks like one."""
    found = re.match(r"[a-z][a-z0-9-]*", item)
    if not found or (found[0] not in bibliography_keys() and not re.search(r"\d{4}", found[0])):
        return escape(item)
    return f"{{cite:t}}`{found[0]}`" + escape(item[found.end() :])


@cache
def bibliography_keys() -> frozenset[str]:
    """Keys of ``references.bib``."""
    text = (Path(__file__).parents[1] / "references.bib").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^@\w+\{([^,]+),", text, flags=re.MULTILINE))


def passes(card: Card) -> str:
    """Forward and backward rows as the card's formulas."""
    if card.passes is None:
        return ""
    most = "at most " if card.passes.at_most else ""
    return f"{most}`{card.passes.forward}` forward, `{card.passes.backward}` backward"


def example(card: Card) -> str:
    """The parameters an example call cannot do without."""
    return "".join(f", {name}={value!r}" for name, value in card.example.items())


def formula(text: str) -> str:
    """TeX as mathematics, anything else as it stands."""
    return f"$$\n{text}\n$$" if "\\" in text else f"```text\n{text}\n```"


def link(entry: Entry, folder: str) -> str:
    """The entry's title, leading to its page."""
    return f"[{escape(entry.card.title)}](/generated/{folder}/{entry.name}.md)"


def row(*cells: str) -> str:
    """A table row; bars inside a cell are escaped."""
    return "| " + " | ".join(" ".join(text.split()).replace("|", "\\|") for text in cells) + " |"
