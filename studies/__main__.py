"""``python -m studies NAME``: one study, its tables, a JSON file and a figure; see docs/studies.md."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from rich.console import Console

from studies import subjects
from studies.outcome import Outcome, show, write
from studies.records import Records
from studies.settings import Size
from studies.subjects import Subject

STUDIES = ("figure3", "orientation", "agi", "ignorance", "ordering", "completeness", "published")
COUNTS = {
    "figure3": 8,
    "orientation": 30,
    "agi": 12,
    "ignorance": 30,
    "ordering": 12,
    "completeness": 4,
    "published": 8,
}
"""Photographs by default."""


def main(words: list[str] | None = None) -> Outcome:
    """Run a study and write what it found."""
    options = _parser().parse_args(words)
    size: Size = "quick" if options.quick else "full" if options.full else "modest"
    count = options.count or (4 if options.quick else COUNTS[options.study])
    subject = subjects.toy(count) if options.quick else subjects.real(count, options.photographs)
    about = {"study": options.study, "size": size, "subject": subjects.summary(subject)}
    scratch = options.scratch
    settings = {"study": options.study, "size": size, "network": type(subject.task.model).__name__}
    records = Records(scratch / f"{options.study}-{size}.jsonl", settings)
    run: Callable[[Subject, Size, Records, Path], Outcome] = import_module(f"studies.{options.study}").run
    outcome = run(subject, size, records, scratch)
    command = f"python -m studies {options.study}" + (f" --{size}" if size != "modest" else "")
    command += f" --count {count}" + (" --photographs photographs" if options.photographs else "")
    write(outcome, options.out / options.study, {**about, "command": command})
    console = Console()
    show(outcome, console)
    console.print(f"Written to {options.out / options.study}.json and .png")
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a toy network, in seconds: shows that it runs")
    size.add_argument("--full", action="store_true", help="the papers' own settings instead of modest ones")
    parser.add_argument("--count", type=int, help="how many photographs")
    parser.add_argument("--photographs", type=Path, help="where the Debian packages were unpacked")
    parser.add_argument("--out", type=Path, default=Path("out/studies"), help="for the result and the figure")
    parser.add_argument(
        "--scratch", type=Path, default=Path("out/studies"), help="for what is finished so far"
    )
    return parser


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on where this one was.")
