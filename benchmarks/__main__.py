"""``python -m benchmarks [ig] [overhead] [levers] [maps]``: prints JSON tables; see docs/performance.md."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch

PARTS = ("ig", "overhead", "levers", "maps")


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
    from benchmarks import integrated_gradients, levers, maps
    from benchmarks.subjects import MODELS

    module = {"ig": integrated_gradients, "levers": levers, "maps": maps}[part]
    for name in MODELS:
        yield module.run(name)


if __name__ == "__main__":
    main(sys.argv[1:])
