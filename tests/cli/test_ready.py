"""What can go wrong after the work is found before it, and nothing is left of the trial."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from abe.cli.ready import check_folder
from abe.errors import Code, StorageError


def test_a_folder_is_checked_without_leaving_anything(tmp_path: Path) -> None:
    assert list(check_folder(tmp_path / "a/b").iterdir()) == []
    (tmp_path / "file").write_text("x")
    for bad in ("file", "file/below"):
        with pytest.raises(StorageError, match="cannot be written"):
            check_folder(tmp_path / bad)


def test_a_folder_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        check_folder(tmp_path)
    assert caught.value.code is Code.NOT_WRITTEN
