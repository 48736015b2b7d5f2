"""``python -m benchmarks [ig] [overhead] [levers] [metrics]``: prints JSON; see docs/performance.md."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch

PARTS = ("ig", "overhead", "levers", "metrics")


def main(words: list[str]) -> None:
    """Run the named parts (all by default) and print what they found."""
    torch.set_num_threads(2)
    unknown = [w for w in words if w not in PARTS]
    if unknown:
        sys.exit(f"no benchmark is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    for part in words or PARTS:
        for row in _run(part):
            print(json.dumps(row), flush=True)


def _run(part: str) -> Iterator[Any]:
    if part == "overhead":
        from benchmarks import overhead

        yield from overhead.run()
        return
    if part == "metrics":
        from benchmarks import metrics

        yield from metrics.every()
        return
    from benchmarks import integrated_gradients, levers
    from benchmarks.subjects import MODELS

    module = integrated_gradients if part == "ig" else levers
    for name in MODELS:
        yield module.run(name)


if __name__ == "__main__":
    main(sys.argv[1:])
