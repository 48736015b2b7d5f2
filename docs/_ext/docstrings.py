"""What is said about an entry as Markdown."""

import re
import textwrap
from collections.abc import Iterable

from abe.documented import Documented
from abe.parameters import described

TITLES = {"Differs from the paper": "Differs from the paper or its published code"}


def to_markdown(said: Documented, *, leave_out: Iterable[str] = ()) -> str:
    """Its notes and sections; those of one line stand among the facts of a page, under their names."""
    shown = {title: texts for title, texts in said.sections.items() if title not in leave_out}
    return "\n\n".join(
        [*map(_paragraph, said.notes), *(_section(title, texts) for title, texts in shown.items())]
    )


def _section(title: str, texts: tuple[str, ...]) -> str:
    if title == "Example":
        body = f"```pycon\n{texts[0]}\n```"
    elif title == "Raises":
        body = "\n".join(f"- `{name}`: {escape(text)}" for name, text in described(texts[0]).items())
    elif len(texts) > 1 or title in TITLES:
        body = "\n".join(f"- {escape(text)}" for text in texts)
    else:
        body = escape(texts[0])
    return f"## {TITLES.get(title, title)}\n\n{body}"


def escape(text: str) -> str:
    """Markdown that shows ``text`` as it is written; code spans and roles stay code."""
    text = re.sub(r":(\w+):`", r"`", text)
    pieces = re.split(r"(``.+?``|`.+?`)", text)
    return "".join(p if i % 2 else re.sub(r"([*_<\[\]$\\{}])", r"\\\1", p) for i, p in enumerate(pieces))


def _paragraph(text: str) -> str:
    """A paragraph; one that is indented throughout is shown as it is."""
    lines = text.strip("\n").splitlines()
    if all(line.startswith("    ") for line in lines if line.strip()):
        return "```text\n" + textwrap.dedent("\n".join(lines)) + "\n```"
    if lines and lines[0].lstrip().startswith(("- ", "* ")):
        split_lines = (re.match(r"(\s*(?:[-*] )?)(.*)", line) for line in lines)
        return "\n".join(m[1] + escape(m[2]) for m in split_lines if m)
    return escape(re.sub(r"::\s*$", ":", text.strip()))
