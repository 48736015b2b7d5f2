"""How the methods are set, by size of a study."""

from typing import Any, Literal

Size = Literal["quick", "modest", "full"]

CLASSES = {"quick": 2, "modest": 4, "full": 20}
"""Random other classes a path is drawn to."""
STEPS = {"quick": 3, "modest": 10, "full": 20}
"""Steps of paths that do not stop by themselves."""
COPIES = {"quick": 2, "modest": 5, "full": 20}
"""Copies over which transferable attacks average."""
NODES = {"quick": 6, "modest": 50, "full": 50}
ROUNDS = {"quick": 3, "modest": 10, "full": 30}
"""Rounds of the iterative search."""


def methods(size: Size) -> dict[str, dict[str, Any]]:
    """Parameters of the path methods: method -> parameters."""
    classes, steps, nodes = CLASSES[size], STEPS[size], NODES[size]
    return {
        "integrated_gradients": {"steps": nodes},
        "expected_gradients": {"samples": nodes},
        "guided_ig": {"steps": nodes},
        "blur_ig": {"steps": nodes},
        "fast_ig": {},
        "big": {} if size != "quick" else {"search_steps": 4, "steps": 4},
        "mfaba": {} if size != "quick" else {"steps": 5, "alpha": 0.01},
        "agi": {"samples": classes, "steps": max(steps, 5)},
        "attexplore": {"samples": COPIES[size], "steps": min(steps, 10)},
        "la": {"samples": classes, "steps": steps},
        "isa": {"rounds": ROUNDS[size]},
        "laai": {"samples": classes, "steps": steps},
    }


SHORT = {
    "integrated_gradients": "IG",
    "expected_gradients": "EG",
    "guided_ig": "GIG",
    "blur_ig": "BlurIG",
    "fast_ig": "FIG",
    "big": "BIG",
    "mfaba": "MFABA",
    "agi": "AGI",
    "attexplore": "AttEXplore",
    "la": "LA",
    "isa": "ISA",
    "laai": "LAAI",
}
"""Names for tables."""


def called(parameters: dict[str, Any]) -> str:
    """Parameters as they are written in a call."""
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in parameters.items())
