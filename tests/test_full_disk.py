"""A disk that is full at any step of any writer: one coded error, the old file as it was, nothing else."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.conftest import own  # noqa: F401 - a fixture

import abe
from abe import Comparison, Explanation
from abe.cli import exits
from abe.engines.backward.patterns import Patterns
from abe.errors import Code, StorageError
from abe.report.html import write_page
from abe.robustness import train_advgan
from abe.testing import nets, samples, task_of

TASK = task_of(nets.Convolutional().eval())
X = samples(4, dtype=torch.float32)


class Disk:
    """Counts the steps of writing, and is full from the one that is asked for, once or for good."""

    def __init__(self, at: int, *, for_good: bool) -> None:
        self.left, self.for_good, self.met = at, for_good, False

    def step(self) -> None:
        """One step.

        Raises:
            OSError: there is no space left.
        """
        self.left -= 1
        if self.left == 0 or (self.left < 0 and self.for_good):
            self.met = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def used(self) -> Iterator[None]:
        """Everything that writes goes to this disk."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("fsync", "replace", "rename", "mkdir"):
                patch.setattr(os, name, self._counted(getattr(os, name)))
            real_open, real_handle = os.open, os.fdopen

            def opened(path: Any, flags: int, *rest: Any, **how: Any) -> int:
                if flags & os.O_CREAT:
                    self.step()
                return real_open(path, flags, *rest, **how)

            def file(handle: int, *rest: Any, **how: Any) -> Any:
                return self._watched(real_handle(handle, *rest, **how))

            patch.setattr(os, "open", opened)
            patch.setattr(os, "fdopen", file)
            for module in (builtins, io):
                patch.setattr(module, "open", self._named(module.open))
            yield

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **how: Any) -> Any:
            self.step()
            return real(*args, **how)

        return counted

    def _named(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", *rest: Any, **how: Any) -> Any:
            if set(mode) & set("wax+"):
                self.step()
                return self._watched(real(path, mode, *rest, **how))
            return real(path, mode, *rest, **how)

        return opened

    def _watched(self, file: Any) -> Any:
        real = getattr(file, "write", None)
        try:
            file.write = self._counted(file.write)
        except AttributeError:  # of C, which has no place for it
            return _Watched(file, self._counted(real))
        return file


class _Watched:
    """A file whose writes are steps."""

    def __init__(self, file: Any, write: Callable[..., Any]) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        self._file.__enter__()
        return self

    def __exit__(self, *problem: object) -> Any:
        return self._file.__exit__(*problem)

    def __iter__(self) -> Any:
        return iter(self._file)


# -- the library -------------------------------------------------------------------------------------------


@cache
def explanation(seed: int = 0) -> Explanation:
    return abe.explain(TASK, X[:2], "smoothgrad", samples=2, seed=seed, progress=False)


@cache
def comparison(seed: int = 0) -> Comparison:
    given = {"ours": "gradient", "noise": torch.rand(2, 3, 6, 6)}
    return abe.evaluate(
        TASK, given, ["insertion", "complexity"], data=X[:2], step=0.5, seed=seed, progress=False
    )


@cache
def curve() -> Any:
    return abe.evaluate_robustness(TASK, X[:2], "fgsm", epsilons=(0.01, 0.1), progress=False)


@cache
def learnt(method: str) -> Any:
    how = {"epochs": 1, "cells": 3, "members": 1} if method == "cxplain" else {}
    return abe.fit(TASK, X, method, **how)


def _checkpoint(path: Path, turn: int) -> None:
    abe.fit(TASK, X, "cxplain", epochs=1 + turn, checkpoint=path, cells=3, members=1)


def _advgan(path: Path, turn: int) -> None:
    train_advgan(TASK, X[:2], path, eps=0.1, epochs=1 + turn, batch=2)


WRITERS: dict[str, Callable[[Path, int], Any]] = {
    "explanation": lambda path, turn: explanation(turn).save(path),
    "comparison": lambda path, turn: comparison(turn).save(path),
    "learnt cxplain": lambda path, turn: learnt("cxplain").save(path),
    "learnt noise": lambda path, turn: learnt("iba").save(path),
    "checkpoint": _checkpoint,
    "advgan": _advgan,
    "patterns": lambda path, turn: Patterns((torch.full((4, 3), 1.0 + turn),)).save(path),
    "page": lambda path, turn: write_page(comparison(turn), path),
    "plot of an explanation": lambda path, turn: explanation(turn).plot(path.with_suffix(".png")),
    "plot of a comparison": lambda path, turn: comparison(turn).plot(path.with_suffix(".svg")),
    "plot of a curve": lambda path, turn: curve().plot(path.with_suffix(".pdf")),
}
EACH_STEP = 40
"""More steps than any writer has."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


SLOW = pytest.mark.slow
WAYS = [
    (True, False),
    *(pytest.param(*way, marks=SLOW) for way in ((True, True), (False, False), (False, True))),
]
DRAWN = [pytest.param(name, marks=[SLOW] * name.startswith("plot")) for name in WRITERS]


@pytest.mark.parametrize(("there", "for_good"), WAYS)
@pytest.mark.parametrize("name", DRAWN)
def test_every_step_of_every_writer(tmp_path: Path, name: str, there: bool, for_good: bool) -> None:
    """Whether or not a file is there, and the disk full once or for good."""
    write, refused = WRITERS[name], list[StorageError]()
    for at in range(1, EACH_STEP):
        folder = tmp_path / str(at)
        path = folder / "result"
        folder.mkdir()
        if there:
            write(path, 0)
        before, disk = contents(folder), Disk(at, for_good=for_good)
        with disk.used():
            try:
                write(path, int(there))
            except StorageError as refusal:
                refused.append(refusal)
            else:
                if not disk.met:
                    break
                continue  # the step was one that may fail
        assert contents(folder) == before
        assert not [p for p in folder.rglob("*") if p.name.endswith(".part")]
    else:
        raise AssertionError("a writer without end")
    assert len(refused) >= 4
    assert {refusal.code for refusal in refused} == {Code.NOT_WRITTEN}
    assert all("No space left" in str(refusal) for refusal in refused)


# -- the command -------------------------------------------------------------------------------------------

MODEL = ("-m", "own_net:make", "--size", "8")
QUICK = ("--methods", "gradient", "--metrics", "insertion", "--step", "50%")
COMMANDS = {
    "explain": ("explain", "a.png", "-k", "gradient", "--save", *MODEL),
    "explain --json": ("explain", "a.png", "-k", "gradient", "--save", "--json", *MODEL),
    "compare": ("compare", "a.png", *QUICK, *MODEL),
    "evaluate": ("evaluate", "m.npy", "-f", "a.png", "--metrics", "insertion", "--step", "50%", *MODEL),
    "attack": ("attack", "a.png", "-k", "fgsm", *MODEL),
    "robustness": ("attack", "a.png", "--epsilons", "1/255", "--steps", "2", *MODEL),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[SLOW] * (name != "attack")) for name in COMMANDS])
def test_every_step_of_every_command(own: Callable[..., Any], name: str) -> None:  # noqa: F811
    np.save("m.npy", np.random.default_rng(0).normal(size=(1, 8, 8)))
    assert own(*COMMANDS[name], "--out", "good").exit_code == 0
    whole, failed = contents(Path("good")), 0
    for at in range(1, EACH_STEP):
        disk = Disk(at, for_good=True)
        with disk.used():
            result = own(*COMMANDS[name], "--out", f"out{at}")
        if not disk.met:
            break
        there = contents(Path(f"out{at}")) if Path(f"out{at}").exists() else {}
        assert set(there) <= set(whole), result.output
        if result.exit_code == 0:  # the step was one that may fail
            continue
        assert result.exit_code == exits.STORAGE, result.output
        assert "No space left" in result.stderr
        assert f"[{Code.NOT_WRITTEN.value}]" in result.stderr
        assert "Unexpected" not in result.output
        failed += 1
    else:
        raise AssertionError("a command without end")
    assert failed >= 4
