"""Tables and findings of the studies, from the result files that ``python -m studies`` wrote."""

import json
import sys
from pathlib import Path
from typing import Any

from docstrings import escape

sys.path.insert(0, str(Path(__file__).parents[2]))
from studies.__main__ import DEMONSTRATIONS, STUDIES

COMMANDS = {name: f"python -m studies {name}" for name in (*STUDIES, *DEMONSTRATIONS)}
"""What makes each result."""
RESULTS = "results"
"""Folder of the result files and figures, inside the documentation."""


def setup(app: Any) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def generate(app: Any) -> None:
    """Write one part per study, included by the pages that speak of it."""
    source = Path(app.srcdir)
    folder = source / "generated" / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        path = source / RESULTS / f"{name}.json"
        text = part(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else absent(name)
        written = folder / f"{name}.md"
        if not written.exists() or written.read_text(encoding="utf-8") != text:
            written.write_text(text, encoding="utf-8")


def absent(name: str) -> str:
    """What stands where a result will."""
    return f"No result is recorded here yet; `{COMMANDS[name]}` makes one.\n"


def part(result: dict[str, Any]) -> str:
    """Command, findings, figure and tables of a study."""
    name = result["study"]
    parts = [f"```console\n$ {result['command']}\n```"]
    parts.append("\n".join(f"- {escape(finding)}" for finding in result["findings"]))
    parts.append(
        f":::{{figure}} /{RESULTS}/{name}.png\n:alt: {result['caption']}\n\n{escape(result['caption'])}\n:::"
    )
    parts += [_table(table) for table in result["tables"]]
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    made = f"Made with {escape(versions)}."
    if "subject" in result:
        made = f"Photographs: {escape(', '.join(result['subject']['photographs']))}. {made}"
    parts.append(made)
    return "\n\n".join(parts) + "\n"


def _table(table: dict[str, Any]) -> str:
    lines = [f"**{escape(table['title'])}**", "", _row(table["head"]), _row(["---"] * len(table["head"]))]
    lines += [_row(cells) for cells in table["rows"]]
    if table["note"]:
        lines += ["", escape(table["note"])]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return (
        "| "
        + " | ".join(
            (c if c.startswith("[") and "](/" in c else escape(c)).replace("|", "\\|") for c in cells
        )
        + " |"
    )
