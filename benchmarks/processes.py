"""Starts workers, asks them in turn, and ends one that takes too much memory or time."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

MEMORY_LIMIT_MB = 20_000
"""Resident memory at which a process counts as "did not finish" on a machine with 24 GB."""
TIME_LIMIT = 600.0


class DidNotFinishError(Exception):
    """A worker was ended; the text says why."""


class Worker:
    """One library on one network in a process of its own."""

    def __init__(self, library: str, model: str) -> None:
        self.library, self.model = library, model
        self._process: subprocess.Popen[str] | None = None
        self._reason = ""

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            DidNotFinishError: memory or time ran out; the next request starts a new process.
        """
        process = self._started()
        assert process.stdin is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return self._answer(process)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is None:
            command = [sys.executable, "-m", "benchmarks.worker", self.library, self.model]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._answer(self._process)
        return self._process

    def _answer(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        ended = threading.Event()
        self._reason = "the process ended"
        threading.Thread(target=self._watch, args=(process, ended), daemon=True).start()
        assert process.stdout is not None
        try:
            while line := process.stdout.readline():
                if line.startswith("{"):
                    return json.loads(line)
        finally:
            ended.set()
        self.close()
        raise DidNotFinishError(self._reason)

    def _watch(self, process: "subprocess.Popen[str]", ended: threading.Event) -> None:
        began = time.monotonic()
        while not ended.wait(0.2):
            used = resident_mb(process.pid)
            if used > MEMORY_LIMIT_MB:
                self._reason = f"more than {MEMORY_LIMIT_MB / 1000:.0f} GB"
            elif time.monotonic() - began > TIME_LIMIT:
                self._reason = f"more than {TIME_LIMIT:.0f} s"
            else:
                continue
            process.kill()
            return


def resident_mb(pid: int) -> float:
    """Resident memory of a process, 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * 4096 / 2**20
