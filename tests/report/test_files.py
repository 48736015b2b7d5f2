"""Files are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from abe.errors import Code, StorageError
from abe.report.files import check_folder, write


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write(tmp_path / "deep/page.html", b"old")
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(StorageError, match="No space left") as caught:
        write(page, b"new")
    assert caught.value.code == Code.NOT_WRITTEN
    assert [path.read_bytes() for path in page.parent.iterdir()] == [b"old"]


def test_a_written_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    assert write(tmp_path / "made", b"x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_checked_without_leaving_anything(tmp_path: Path) -> None:
    assert list(check_folder(tmp_path / "a/b").iterdir()) == []
    (tmp_path / "file").write_text("x")
    for bad in ("file", "file/below"):
        with pytest.raises(StorageError, match="cannot be written"):
            check_folder(tmp_path / bad)
