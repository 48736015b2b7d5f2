"""What holds for every test: one thread per worker, repeatable numbers, the same seeds.

Imports nothing of ABE: shapes are checked at run time only in modules that are imported after pytest
has installed the check.
"""

import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

# Two workers with all cores each would fight for them. Read by torch when it is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import typechecker
from hypothesis import settings

typechecker.spare()
settings.register_profile("abe", deadline=None)  # a shared machine can be slow at any moment
settings.register_profile("ci", parent=settings.get_profile("abe"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "abe")


def pytest_configure(config: pytest.Config) -> None:
    """Repeatable sums, and memory that was never written reads as NaN instead of by luck as zero."""
    import torch

    torch.set_num_threads(1)
    if not torch.cuda.is_available():  # there, some backward passes have no deterministic form
        torch.use_deterministic_algorithms(True)


NEAR = ("127.0.0.1", "::1", "localhost")
"""Where a test may connect to: its own machine, such as a page that it serves."""


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Nothing is downloaded: a connection to anywhere else fails the test that asks for it."""
    connect = socket.socket.connect

    def near(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in NEAR:
            raise AssertionError(f"a test wanted to connect to {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket.socket, "connect", near)
        yield


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """The inputs that a test draws from the global generators are the same in any order of tests."""
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)  # noqa: NPY002 - global on purpose: it is the tests' inputs
    torch.manual_seed(0)
