"""``python -m benchmarks [PART ...]``: prints JSON tables; see docs/performance.md."""

import argparse
import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch

from benchmarks.subjects import MODELS

PARTS: dict[str, tuple[str, ...]] = {
    "ig": ("integrated_gradients",),
    "single": ("single",),
    "overhead": ("overhead",),
    "levers": ("levers",),
    "adversarial": ("adversarial", "photographs"),
    "adversarial-small": ("adversarial", "small"),
    "imputation": ("imputation",),
    "backward": ("backward",),
    "maps": ("maps",),
    "metrics": ("metrics",),
    "removal": ("removal",),
    "language": ("language",),
}
"""Name -> module, whose ``run`` yields rows, and what to pass to it."""
BY_MODEL = ("ig", "levers", "maps")
"""Parts that measure every network of `MODELS` in turn."""


def main() -> None:
    """Run the named parts (all by default) and print what they found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + "; all by default")
    parser.add_argument(
        "--model", choices=tuple(MODELS), help="one network of the parts that measure several"
    )
    parser.add_argument("--rounds", type=int, help="alternating rounds; each part has its own default")
    words = parser.parse_args()
    if unknown := [part for part in words.parts if part not in PARTS]:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    torch.set_num_threads(2)
    models = [words.model] if words.model else list(MODELS)
    rounds = {} if words.rounds is None else {"rounds": words.rounds}
    for part in words.parts or PARTS:
        for row in _rows(part, models, rounds):
            print(json.dumps(row), flush=True)


def _rows(part: str, models: list[str], rounds: dict[str, int]) -> Iterator[Any]:
    module, *arguments = PARTS[part]
    run = import_module(f"benchmarks.{module}").run
    for more in [[name] for name in models] if part in BY_MODEL else [[]]:
        yield from run(*arguments, *more, **rounds)


if __name__ == "__main__":
    main()
