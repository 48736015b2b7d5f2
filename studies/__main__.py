"""``python -m studies NAME``: one study, its tables, a JSON file and a figure; without NAME, what there is.

docs/studies.md and docs/soundness.md say what each asks and what it found.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from studies import benches, charts, front, subjects, tasks
from studies.outcome import Outcome, record, show
from studies.records import Records
from studies.settings import Size


@dataclass(frozen=True)
class Study:
    """How a study is found, and what to know before it is started.

    Attributes:
        asks: its question, in a line.
        run: module and function.
        minutes: of one core, without a GPU, in its modest size, as measured; of one photograph where it
            takes them.
        count: photographs by default; 0 where it makes data of its own.
    """

    asks: str
    run: str
    minutes: float
    count: int = 0

    @property
    def cost(self) -> str:
        """Photographs times minutes, or minutes."""
        return f"{self.count} × {self.minutes:g} min" if self.count else f"{self.minutes:g} min"


STUDIES = {
    "figure3": Study("Which attack makes the best path?", "figure3:run", 1.5, 8),
    "orientation": Study("LAAI: the sign of Eq. 5 or Algorithm 2?", "orientation:run", 0.7, 30),
    "agi": Study("Why can AGI score below a random order?", "agi:run", 1.2, 12),
    "ignorance": Study("What do maps overlook or invent?", "ignorance:run", 0.3, 30),
    "ordering": Study("Do methods come in the papers' order?", "ordering:run", 1, 12),
    "completeness": Study("What do the sums along paths miss?", "completeness:run", 3, 4),
    "published": Study("What does the published code change?", "published:run", 2.5, 8),
}
"""Studies of a pretrained network on photographs."""
DEMONSTRATIONS = {
    "decisive": Study("Which word does a language model go by?", "decisive:run", 8),
    "soundness-linear": Study("Soundness where the true map is known", "soundness:linear", 0.2),
    "soundness-modified": Study("Which metric sees a changed map?", "soundness:modified", 3),
    "soundness-retraining": Study("What does a retrained model say?", "traps:retraining", 0.6),
    "soundness-semi-natural": Study("What do planted watermarks say?", "traps:semi_natural", 0.6),
}
"""Studies of small data that they make themselves."""


def main(words: list[str] | None = None) -> Outcome | None:
    """Run a study and write what it found, or list the studies."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["tasks"]:
        return tasks.main(words[1:])
    if words[:1] == ["front"]:
        front.main(words[1:])
        return None
    parser = _parser()
    options = parser.parse_args(words)
    console = Console()
    if options.study is None:
        console.print(_listing())
        return None
    name, path = options.study, options.out / options.study
    if name in STUDIES:
        outcome, about = _on_photographs(options, STUDIES[name])
    elif options.quick or options.count or options.photographs:
        parser.error(f"{name} makes its own data; --quick, --count and --photographs are for other studies")
    else:
        outcome = _function(DEMONSTRATIONS[name])(options.full)
        about = {"study": name, "command": f"python -m studies {name}" + (" --full" if options.full else "")}
    record(outcome, path, about)
    charts.draw(outcome, path.with_suffix(".png"))
    show(outcome, console)
    console.print(f"Written to {path}.json and .png")
    return outcome


def _on_photographs(options: argparse.Namespace, study: Study) -> tuple[Outcome, dict[str, Any]]:
    """What a study found, and what it ran on; what is finished is kept in the scratch folder."""
    name = options.study
    size: Size = "quick" if options.quick else "full" if options.full else "modest"
    count = options.count or (4 if options.quick else study.count)
    subject = subjects.toy(count) if options.quick else subjects.real(count, options.photographs)
    settings = {"study": name, "size": size, "network": type(subject.task.model).__name__}
    records = Records(options.scratch / f"{name}-{size}.jsonl", settings)
    outcome = _function(study)(subject, size, records, options.scratch)
    command = f"python -m studies {name}" + (f" --{size}" if size != "modest" else "")
    command += f" --count {count}" + (" --photographs photographs" if options.photographs else "")
    about = {"study": name, "size": size, "subject": subjects.summary(subject), "command": command}
    return outcome, about


def _function(study: Study) -> Callable[..., Outcome]:
    module, _, function = study.run.partition(":")
    return getattr(import_module(f"studies.{module}"), function)


def _listing() -> Table:
    note = "python -m studies NAME starts one. Cost: photographs (--count) × minutes of one core each."
    table = Table(
        "study", "asks", "cost", box=None, padding=(0, 1, 0, 0), caption=note, caption_justify="left"
    )
    for name, study in {**STUDIES, **DEMONSTRATIONS}.items():
        table.add_row(name, study.asks, study.cost)
    table.add_row("tasks TASK", f"All methods by INS, DEL, IPS: {', '.join(benches.TASKS)}", "minutes")
    table.add_row("front", "Draws the text, the row and the series of the first page", "1 min")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    parser.add_argument("study", nargs="?", choices=(*STUDIES, *DEMONSTRATIONS), metavar="NAME")
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
