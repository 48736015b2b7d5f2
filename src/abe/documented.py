"""What is said about a registered entry, composed once from its card and what its author wrote.

An author writes one sentence, the parameters that mean something of their own, and an example; the card has
the rest. Registration makes one text of both, which `help`, ``abe methods NAME`` and the pages show alike.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from abe.parameters import described, shared
from abe.types import Card, Passes

WIDTH = 100
BETTER = {"higher": "higher is better", "lower": "lower is better"}
ARGUMENTS = ("Args", "Attributes")
VERBATIM = ("Raises", "Example")
AUTHOR = ("Formula", "Composition", *ARGUMENTS, "Shape", "Cost", "Note", "Returns", *VERBATIM)
"""Sections that an author may write; the card's formula and cost stand before the author's."""
CARD = (
    *("Part of", "Range", "Guarantees", "Laws that do not hold"),
    *("Differs from the paper", "When not to believe it", "Source"),
)
"""Sections that are written from the card alone."""
ORDER = (
    *("Part of", "Formula", "Composition", "Args", "Shape", "Range", "Guarantees", "Laws that do not hold"),
    *("Cost", "Differs from the paper", "When not to believe it", "Source", "Note", "Returns", *VERBATIM),
)
SHAPES = {
    "method": "(b, *f) in and out.",
    "metric": "maps (b, c, *space), (b, 1, *space) or (b, *space); one value per sample, (b,).",
}
"""What goes in and comes out, where the author says nothing else."""
_HEAD = re.compile(rf"^({'|'.join((*AUTHOR, *CARD))}):(?:[ \t]+(.*))?$", re.MULTILINE)


@dataclass(frozen=True)
class Documented:
    """What is said about an entry.

    Attributes:
        summary: the opening sentence.
        notes: further paragraphs, as the author wrote them.
        parameters: what each means, in the order of the signature; then other fields that are described.
        sections: title -> paragraphs, or items where there are several, in the order in which they are shown.
    """

    summary: str
    notes: tuple[str, ...]
    parameters: Mapping[str, str]
    sections: Mapping[str, tuple[str, ...]]

    def missing(self, parameters: Iterable[str], *, example: bool = False) -> list[str]:
        """What an author still has to write: one sentence, what each parameter means, and an example."""
        missing = [] if self.summary.endswith(".") else ["one sentence that opens it"]
        missing += [f"Args: {name}" for name in parameters if name not in self.parameters]
        if example and "Example" not in self.sections:
            missing.append("Example")
        return missing

    def text(self) -> str:
        """All of it as a docstring."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _folded(self.summary, "", "")
        for note in self.notes:
            yield from ("", *note.splitlines())
        for title in ORDER:
            if title == "Args" and self.parameters:
                yield from ("", "Args:")
                for name, meaning in self.parameters.items():
                    yield from _folded(f"{name}: {meaning}", "    ", "        ")
            texts = self.sections.get(title, ())
            if texts:
                yield from ("", f"{title}:")
            for text in texts:
                if title in VERBATIM:
                    yield from (f"    {line}".rstrip() for line in text.splitlines())
                elif len(texts) == 1:
                    yield from _folded(text, "    ", "    ")
                else:
                    yield from _folded(text, "    - ", "      ")


def documented(kind: str, factory: Callable[..., Any], card: Card) -> Documented:
    """What is said about an entry; a docstring that was composed before reads the same again."""
    summary, notes, written = read(authored(factory))
    own = {name: text for title in ARGUMENTS for name, text in described(written.get(title, "")).items()}
    names = inspect.signature(factory).parameters
    meanings = {name: own.get(name) or shared(kind, name) for name in names}
    said = {**_from_author(kind, factory, written), **_from_card(kind, card)}
    return Documented(
        summary=summary or card.summary,
        notes=notes,
        parameters={name: text for name, text in {**meanings, **own}.items() if text},
        sections={title: said[title] for title in ORDER if title in said},
    )


def authored(factory: Callable[..., Any]) -> str:
    """A factory's docstring, unless it is the signature that `dataclass` puts where there is none."""
    text = inspect.cleandoc(factory.__doc__ or "")
    return "" if text.startswith(f"{getattr(factory, '__name__', '')}(") and "\n" not in text else text


def read(docstring: str) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The opening sentence, further paragraphs, and the text of every section."""
    heads = list(_HEAD.finditer(docstring))
    body = docstring[: heads[0].start()] if heads else docstring
    opening, *notes = (text.strip("\n") for text in re.split(r"\n\s*\n", body.strip()))
    ends = [*(head.start() for head in heads[1:]), len(docstring)]
    sections = {
        head[1]: "\n".join(filter(None, (head[2], _dedented(docstring[head.end() : end]))))
        for head, end in zip(heads, ends, strict=False)  # without heads there is one end
    }
    return _line(opening), tuple(notes), sections


def cost(passes: Passes | None) -> str:
    """The card's formulas as a sentence, or its words where they have no closed form."""
    if passes is None:
        return ""
    if passes.words or "adaptive" in (passes.forward, passes.backward):
        return passes.words
    forward, backward = (
        "no" if formula == "0" else formula.replace(" * ", " · ")
        for formula in (passes.forward, passes.backward)
    )
    most = "at most " if passes.at_most else ""
    return f"{most}{forward} forward and {backward} backward rows for b samples."


def _from_author(
    kind: str, factory: Callable[..., Any], written: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    made = getattr(factory, "__annotations__", {}).get("return")
    engines = " or ".join(
        f"`{part.__name__}`" for part in get_args(made) or (made,) if isinstance(part, type)
    )
    defaults = {"Composition": engines and f"{engines}.", "Shape": SHAPES.get(kind, "")}
    texts = {title: (text,) for title, text in defaults.items() if text}
    for title, text in written.items():
        if title in AUTHOR and title not in ARGUMENTS:
            texts[title] = (text if title in VERBATIM else _line(text),)
    return texts


def _from_card(kind: str, card: Card) -> dict[str, tuple[str, ...]]:
    guarantees = ", ".join(card.guarantees).replace("_", " ")
    failures = card.expected_failures.items()
    texts = {
        "Part of": (card.part_of and f"the method `{card.part_of}`, whose card has source and deviations.",),
        "Formula": (card.formula,),
        "Range": ("; ".join(filter(None, (card.range, BETTER.get(card.direction or "")))),),
        "Guarantees": (f"{guarantees or 'none of the axioms'}." if guarantees or kind == "method" else "",),
        "Laws that do not hold": tuple(f"{law.replace('_', ' ')}: {reason}." for law, reason in failures),
        "Cost": (cost(card.passes),),
        "Differs from the paper": card.differs,
        "When not to believe it": card.pitfalls,
        "Source": (card.source,),
    }
    return {title: text for title, text in texts.items() if any(text)}


def _line(text: str) -> str:
    return " ".join(text.split())


def _dedented(text: str) -> str:
    """A section's lines, by as much as its first one is indented; `inspect.cleandoc` takes longer for it."""
    lines = text.strip("\n").rstrip().splitlines()
    indent = " " * (len(lines[0]) - len(lines[0].lstrip())) if lines else ""
    return "\n".join(line.removeprefix(indent) for line in lines)


def _folded(text: str, first: str, rest: str) -> Iterator[str]:
    """Lines of at most `WIDTH` characters where words allow it."""
    if len(first) + len(text) <= WIDTH and "\n" not in text:
        yield first + text
        return
    line = first
    for word in text.split():
        if len(line) + len(word) >= WIDTH and line.strip():
            yield line.rstrip()
            line = rest
        line += f"{word} "
    yield line.rstrip()
