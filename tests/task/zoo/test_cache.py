"""Where trained models are kept."""

from pathlib import Path

import pytest

from abe.errors import Code, StorageError
from abe.task.zoo.cache import cache_folder, prepared


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ABE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_folder_is_the_one_named_or_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache_folder() == tmp_path / ".cache/abe/zoo"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder() == tmp_path / ".cache/abe/zoo"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/abe/zoo"
    monkeypatch.setenv("ABE_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    assert cache_folder("here") == Path("here")


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert list(prepared(tmp_path / "a/b").iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/inside", "x" * 300, "a\0b"])
def test_a_folder_that_cannot_be_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="ABE_CACHE") as caught:
        prepared(tmp_path / name)
    assert caught.value.code == Code.NOT_WRITTEN
