"""Google-style docstrings as Markdown."""

import re
import textwrap
from dataclasses import dataclass, field

SECTIONS = (
    "Args",
    "Attributes",
    "Composition",
    "Cost",
    "Differs from the paper",
    "Example",
    "Guarantees",
    "Note",
    "Raises",
    "Returns",
    "Shape",
    "Source",
)
CARD_SAYS = {"Guarantees", "Cost", "Differs from the paper", "Source"}
"""Sections that repeat the card; the page has them from there."""


@dataclass
class Documented:
    """A docstring's arguments by name, and the rest of it as Markdown."""

    text: str
    arguments: dict[str, str] = field(default_factory=dict)


def to_markdown(docstring: str, *, skip_first: str = "") -> Documented:
    """Split a docstring into its sections and translate each.

    Args:
        docstring: as `inspect.getdoc` returns it.
        skip_first: an opening paragraph that the page shows already.
    """
    body, sections = split(docstring)
    paragraphs = [p for p in body.split("\n\n") if p.strip()]
    if paragraphs and skip_first and _plain(paragraphs[0]) == _plain(skip_first):
        paragraphs = paragraphs[1:]
    parts = [_paragraph(p) for p in paragraphs]
    arguments: dict[str, str] = {}
    for title, text in sections:
        if title in ("Args", "Attributes"):
            arguments |= items(text)
        elif title == "Example":
            parts.append(f"## Example\n\n```pycon\n{text}\n```")
        elif title == "Raises":
            parts.append("## Raises\n\n" + "\n".join(f"- `{k}`: {v}" for k, v in items(text).items()))
        elif title not in CARD_SAYS:
            parts.append(f"## {title}\n\n" + "\n\n".join(_paragraph(p) for p in text.split("\n\n")))
    return Documented("\n\n".join(parts), arguments)


def split(docstring: str) -> tuple[str, list[tuple[str, str]]]:
    """The text before the first section, and (title, dedented text) of each section."""
    head = re.compile(rf"^({'|'.join(SECTIONS)}):[ \t]*(.*)$", re.MULTILINE)
    found = list(head.finditer(docstring))
    if not found:
        return docstring.strip(), []
    ends = [match.start() for match in found[1:]] + [len(docstring)]
    texts = [
        (m[2] + "\n" if m[2] else "") + textwrap.dedent(docstring[m.end() : end].strip("\n"))
        for m, end in zip(found, ends, strict=True)
    ]
    return docstring[: found[0].start()].strip(), [
        (m[1], text.strip()) for m, text in zip(found, texts, strict=True)
    ]


def items(text: str) -> dict[str, str]:
    """``name: description`` entries; continuation lines are indented."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        start = re.match(r"\*{0,2}(\w[\w.]*)(?: \([^)]*\))?: (.*)", line)
        if start:
            name = start[1]
            found[name] = start[2]
        elif name:
            found[name] += " " + line.strip()
    return {key: escape(value.strip()) for key, value in found.items()}


def escape(text: str) -> str:
    """Markdown that shows ``text`` as it is written; code spans and roles stay code."""
    text = re.sub(r":(\w+):`", r"`", text)
    pieces = re.split(r"(``.+?``|`.+?`)", text)
    return "".join(p if i % 2 else re.sub(r"([*_<\[\]$\\{}])", r"\\\1", p) for i, p in enumerate(pieces))


def _paragraph(text: str) -> str:
    """A paragraph; one that is indented throughout or ends a ``::`` is shown as it is."""
    lines = text.strip("\n").splitlines()
    if all(line.startswith("    ") for line in lines if line.strip()):
        return "```text\n" + textwrap.dedent("\n".join(lines)) + "\n```"
    if lines and lines[0].lstrip().startswith(("- ", "* ")):
        split_lines = (re.match(r"(\s*(?:[-*] )?)(.*)", line) for line in lines)
        return "\n".join(m[1] + escape(m[2]) for m in split_lines if m)
    return escape(re.sub(r"::\s*$", ":", text.strip()))


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").lower()
