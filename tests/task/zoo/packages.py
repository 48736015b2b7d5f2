"""Packages that hold files, made for a test."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from abe.task.zoo.files import Package, Pinned


def package(
    module: str, files: Mapping[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Pinned]:
    """A package of this name in a folder that Python looks through, and its files as they are pinned."""
    for name, content in {"__init__.py": b"raise RuntimeError('run')", **files}.items():
        path = folder / module / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.syspath_prepend(str(folder))
    dist = Package(module.replace("_", "-"), module, "1.2.3")
    return {name: pinned(dist, name, content) for name, content in files.items()}


def pinned(dist: Package, name: str, content: bytes) -> Pinned:
    return Pinned(dist, name, len(content), hashlib.sha256(content).hexdigest())
