"""Files of other packages: the very ones, or refused with both digests."""

import hashlib
import os
from pathlib import Path

import pytest
from tests.task.zoo.packages import package

from abe.errors import Code, PackageError, StorageError
from abe.task.zoo.files import Package, Pinned, install_command, require

CONTENT = b"some weights"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pinned:
    return package("own_held_file", {"data/w.bin": CONTENT}, tmp_path, monkeypatch)["data/w.bin"]


def test_a_file_is_found_and_read_without_running_its_package(file: Pinned, tmp_path: Path) -> None:
    assert file.check() == tmp_path / "own_held_file/data/w.bin"
    assert file.read() == CONTENT
    assert file.package.installed


@pytest.mark.parametrize(
    "other", [b"some weightz", b"", b"some weights and more"], ids=["as long", "none", "more"]
)
def test_another_file_is_refused_with_both_digests(file: Pinned, other: bytes) -> None:
    file.find().write_bytes(other)
    for look in (file.check, file.read):
        with pytest.raises(StorageError) as caught:
            look()
        said = str(caught.value)
        assert caught.value.code == Code.CORRUPT_FILE
        assert hashlib.sha256(other).hexdigest() in said
        assert file.sha256 in said
        assert "pip install --force-reinstall --no-deps own-held-file==1.2.3" in said


def test_a_missing_file_and_a_missing_package_are_told_apart(file: Pinned, tmp_path: Path) -> None:
    file.find().unlink()
    with pytest.raises(PackageError, match="does not hold the file") as caught:
        file.read()
    assert "--force-reinstall" in str(caught.value)
    gone = Pinned(Package("nobody-has-this", "nobody_has_this", "2.0"), "w.bin", 1, "0")
    with pytest.raises(PackageError, match=r"pip install --no-deps nobody-has-this==2\.0") as caught:
        gone.check()
    assert caught.value.code == Code.MISSING_PACKAGE


def test_what_is_no_file_is_not_waited_for(file: Pinned) -> None:
    path = file.find()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(PackageError):
        file.read()
    path.unlink()
    path.mkdir()
    with pytest.raises(PackageError):
        file.check()


def test_a_module_without_a_folder_has_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_single.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PackageError, match="has no files"):
        _ = Package("own-single", "own_single", "1").folder


def test_data_is_installed_without_what_it_asks_for_and_libraries_with_it() -> None:
    data, library = Package("a-weights", "a_weights", "1.0"), Package("lib", "lib")
    assert install_command([data, library]) == "pip install --no-deps a-weights==1.0 && pip install lib"
    assert install_command([library]) == "pip install lib"
    assert install_command([]) == ""
    with pytest.raises(PackageError, match="Got no a-weights, lib") as caught:
        require([data, library], "It")
    assert "Run: pip install --no-deps a-weights==1.0 && pip install lib." in str(caught.value)
