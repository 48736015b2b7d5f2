"""``python -m benchmarks [PART ...]``: prints JSON tables; see docs/performance.md."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.subjects import MODELS

PARTS = ("ig", "overhead", "levers", "adversarial", "adversarial-small")


def main() -> None:
    """Run the named parts (all by default) and print what they found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + "; all by default")
    parser.add_argument("--model", choices=tuple(MODELS), help="one network instead of all (ig, levers)")
    parser.add_argument("--rounds", type=int, help="alternating rounds (overhead: 5, others: 3)")
    words = parser.parse_args()
    if unknown := [part for part in words.parts if part not in PARTS]:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    torch.set_num_threads(2)
    rounds = {} if words.rounds is None else {"rounds": words.rounds}
    for part in words.parts or PARTS:
        for row in _run(part, [words.model] if words.model else list(MODELS), rounds):
            print(json.dumps(row), flush=True)


def _run(part: str, models: list[str], rounds: dict[str, int]) -> Iterator[Any]:
    from benchmarks import adversarial, integrated_gradients, levers, overhead

    if part == "overhead":
        yield from overhead.run(**rounds)
    elif part.startswith("adversarial"):
        yield from adversarial.run("small" if part == "adversarial-small" else "photographs", **rounds)
    elif part == "ig":
        for name in models:
            yield from integrated_gradients.run(name, **rounds)
    else:
        yield from (levers.run(name) for name in models)


if __name__ == "__main__":
    main()
