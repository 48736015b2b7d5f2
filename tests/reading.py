"""Which arrays of the recorded files the tests read; as a plugin it writes them down at the end.

`pytest -p tests.reading` with ``ABE_READ`` naming a file; `test_recorded.py` judges it.
"""

import json
import os
from pathlib import Path
from typing import Any

READ: dict[str, set[str]] = {}
"""Names of arrays by the file that they were read from."""


class Arrays(dict[str, Any]):
    """The arrays of one recorded file, which notes what is read of it."""

    def __init__(self, name: str, arrays: dict[str, Any]) -> None:
        super().__init__(arrays)
        self._read = READ.setdefault(name, set())

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return super().__getitem__(key)


def pytest_sessionfinish() -> None:
    """Write down what was read."""
    Path(os.environ["ABE_READ"]).write_text(json.dumps({name: sorted(keys) for name, keys in READ.items()}))
