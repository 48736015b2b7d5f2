"""Saved folders and files: writers beside writers and readers, killed writers, and what is no file at all."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch

from abe import storage, writers
from abe.errors import Code, StorageError

KIND = "explanation"


def anything(manifest, tensors):
    return manifest, tensors


def keep(folder: Path, manifest: dict, tensors: dict) -> Path:
    return storage.save(folder, KIND, lambda: (manifest, tensors), anything)


def save(folder: Path, number: int) -> None:
    keep(folder, {"number": number}, {"a": torch.full((50,), float(number))})


def loaded(folder: Path) -> int:
    """The number that was saved, once manifest and tensors are found to be of one save."""
    manifest, tensors = storage.read(folder, KIND)
    assert tensors["a"].tolist() == [float(manifest["number"])] * 50
    return manifest["number"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# -- writers and readers -----------------------------------------------------------------------------------


def _write(folder: Path, numbers: tuple[int, ...], rounds: int) -> None:
    for turn in range(rounds):
        save(folder, numbers[turn % len(numbers)])


def _read_until(folder: Path, done: threading.Event, seen: list[int], problems: list[Exception]) -> None:
    try:
        while not done.is_set():
            seen.append(loaded(folder))
    except Exception as problem:
        problems.append(problem)


def _beside_each_other(folder: Path, rounds: int, start) -> tuple[list[int], list[Exception]]:
    """Two writers, of which one writes the other's contents too, and a reader."""
    save(folder, 0)
    done, seen, problems = threading.Event(), list[int](), list[Exception]()
    reader = threading.Thread(target=_read_until, args=(folder, done, seen, problems))
    writing = [start(target=_write, args=(folder, numbers, rounds)) for numbers in ((0, 1), (1, 2, 0))]
    for one in writing:
        one.start()
    reader.start()  # after the processes: one with threads should not fork
    for one in writing:
        one.join()
    done.set()
    reader.join()
    assert all(getattr(one, "exitcode", 0) == 0 for one in writing)
    return seen, problems


def _rounds(few: int, many: int) -> list:
    return [few, pytest.param(many, marks=pytest.mark.slow)]


@pytest.mark.parametrize("rounds", _rounds(20, 500))
@pytest.mark.usefixtures("quick")
def test_threads_that_save_to_one_folder_never_destroy_it(tmp_path, rounds):
    for _ in range(max(rounds // 50, 1)):
        seen, problems = _beside_each_other(tmp_path, min(rounds, 50), threading.Thread)
        assert problems == []
        assert set(seen) <= {0, 1, 2}
        assert loaded(tmp_path) in (0, 1, 2)
        assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("rounds", _rounds(20, 500))
@pytest.mark.usefixtures("quick")
def test_processes_that_save_to_one_folder_never_destroy_it(tmp_path, rounds):
    start = multiprocessing.get_context("fork").Process
    seen, problems = _beside_each_other(tmp_path, rounds, start)
    assert problems == []
    assert set(seen) <= {0, 1, 2}
    assert loaded(tmp_path) in (0, 1, 2)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_reader_takes_the_manifest_that_came_meanwhile(tmp_path, monkeypatch):
    """The writer comes between the reader's two files."""
    save(tmp_path, 1)
    real, left = storage._read_tensors, [2]

    def late(folder, manifest, kind):
        if left:
            save(folder, left.pop())
        return real(folder, manifest, kind)

    monkeypatch.setattr(storage, "_read_tensors", late)
    assert loaded(tmp_path) == 2


def test_a_writer_that_never_ends_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(writers, "PATIENCE", 0.05)
    with writers.alone(tmp_path), pytest.raises(StorageError, match="all the time") as caught:
        save(tmp_path, 2)
    assert caught.value.code is Code.NOT_WRITTEN
    assert loaded(tmp_path) == 1
    save(tmp_path, 2)
    assert loaded(tmp_path) == 2


def test_a_lock_ends_with_the_block_though_a_child_was_forked_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "PATIENCE", 1.0)
    with writers.alone(tmp_path):
        child = os.fork()
        if child == 0:  # it lives on, with a copy of everything that was open
            time.sleep(30)
            os._exit(0)
    try:
        save(tmp_path, 1)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert loaded(tmp_path) == 1


def test_without_locks_nothing_is_removed_that_another_could_have_just_written(tmp_path, monkeypatch):
    """As on Windows and on network file systems."""
    monkeypatch.setattr(writers, "fcntl", None)
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert loaded(tmp_path) == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    for path in tmp_path.glob("*.safetensors"):
        os.utime(path, (0, 0))
    save(tmp_path, 3)
    assert loaded(tmp_path) == 3
    assert len(list(tmp_path.iterdir())) == 2


# -- killed writers ----------------------------------------------------------------------------------------

LEFT = (
    ".explanation-0123456789abcdef.safetensors.abcd_123.part",
    ".explanation.json.abcd1234.part",
    ".explanation.json.abcd1234",
    "explanation-0123456789abcdef.safetensors",
)
OTHERS = (
    "explanation-notes.safetensors",
    ".explanation.json.swp",
    "explanation-0123456789abcdef.safetensors.bak",
    "comparison-0123456789abcdef.safetensors",
    ".x.safetensors.abcd1234.part",
)


def test_what_killed_writers_left_goes_with_the_next_save_and_nothing_else(tmp_path):
    save(tmp_path, 1)
    for name in (*LEFT, *OTHERS):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".explanation.json.folder12").mkdir()
    save(tmp_path, 2)
    there = {path.name for path in tmp_path.iterdir()}
    assert there.isdisjoint(LEFT)
    assert there >= {*OTHERS, ".explanation.json.folder12"}
    assert loaded(tmp_path) == 2


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_writer_killed_at_any_step_leaves_the_old_one_and_no_rubbish_after_the_next(tmp_path, step, call):
    save(tmp_path, 1)
    child = os.fork()
    if child == 0:
        real, left = getattr(os, step), [call]

        def killed(*args):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        setattr(os, step, killed)
        try:
            save(tmp_path, 2)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert loaded(tmp_path) in ((1,) if call < 3 else (1, 2))
    save(tmp_path, 3)
    assert loaded(tmp_path) == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_stands_alone_is_swept_too(tmp_path):
    path = tmp_path / "learnt.safetensors"
    for name in (".learnt.safetensors.abcd1234.part", ".learnt.safetensors.4711.part"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".learnt.safetensors.original").write_bytes(b"mine")
    storage.write_tensors(path, {"a": torch.ones(2)}, {"b": "c"})
    assert {p.name for p in tmp_path.iterdir()} == {path.name, ".learnt.safetensors.original"}
    assert storage.read_tensors(path)[1]["a"].tolist() == [1, 1]


@pytest.mark.parametrize("step", ["fsync", "replace", "fdopen"])
def test_a_full_disk_is_said_and_the_old_file_stays(tmp_path, monkeypatch, step):
    path = tmp_path / "learnt.safetensors"
    storage.write_tensors(path, {"a": torch.ones(2)}, {})

    def full(*args, **kwargs):
        if step == "fdopen":
            os.close(args[0])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(StorageError, match="No space left") as caught:
        storage.write_tensors(path, {"a": torch.zeros(2)}, {})
    monkeypatch.undo()
    assert caught.value.code is Code.NOT_WRITTEN
    assert storage.read_tensors(path)[1]["a"].tolist() == [1, 1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_usual_mode_and_one_that_is_replaced_keeps_its_own(tmp_path, mask):
    before = os.umask(mask)
    try:
        made = storage.write(tmp_path / "deep/page.html", b"old")
        save(tmp_path / "saved", 1)
    finally:
        os.umask(before)
    for path in (made, *(tmp_path / "saved").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    made.chmod(0o640)
    storage.write(made, b"new")
    assert (made.read_bytes(), made.stat().st_mode & 0o777) == (b"new", 0o640)


def test_the_mask_of_new_files_is_never_set_to_be_read(tmp_path, monkeypatch):
    """It is the whole process's: another thread's file would be everybody's meanwhile."""
    monkeypatch.setattr(os, "umask", None)
    storage.write(tmp_path / "page.html", b"x")


def test_what_was_private_is_not_everybodys_while_it_is_replaced(tmp_path, monkeypatch):
    path, modes = storage.write(tmp_path / "page.html", b"old"), []
    path.chmod(0o600)
    real = os.fsync

    def watched(handle: int) -> None:
        modes.extend(one.stat().st_mode & 0o777 for one in tmp_path.iterdir())
        real(handle)

    monkeypatch.setattr(os, "fsync", watched)
    storage.write(path, b"new")
    assert set(modes) == {0o600}


def test_names_reach_the_disk_before_the_manifest_names_them(tmp_path, monkeypatch):
    """Flushed in order: the tensors, their name, the manifest, its name."""
    flushed: list[str] = []
    real = os.fsync

    def watched(handle: int) -> None:
        flushed.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        real(handle)

    monkeypatch.setattr(os, "fsync", watched)
    save(tmp_path, 1)
    assert flushed == ["file", "folder", "file", "folder"]


# -- what is no file, or another one -----------------------------------------------------------------------


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    there = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has a hundred characters at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(there)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _circle(path: Path) -> None:
    path.symlink_to(path.name)


def _nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.write(
            (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(64)
        )
        file.truncate(1 << 40)


def _huge_and_honest(path: Path) -> None:
    """As long as its header says, and longer than any memory."""
    size = 1 << 42
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def _long_header(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


STRANGE = [_pipe, _folder, _socket, _endless, _circle, _nowhere, _huge, _huge_and_honest, _long_header]


@pytest.mark.parametrize("which", ["manifest", "tensors"])
@pytest.mark.parametrize("make", STRANGE)
def test_what_only_stands_for_a_file_is_refused_at_once(tmp_path, make, which):
    save(tmp_path, 1)
    path = tmp_path / f"{KIND}.json" if which == "manifest" else next(tmp_path.glob("*.safetensors"))
    path.unlink()
    try:
        make(path)
    except OSError as problem:
        pytest.skip(f"this file system cannot have one: {problem}")
    began = time.monotonic()
    with pytest.raises(StorageError) as caught:
        storage.read(tmp_path, KIND)
    assert caught.value.code in (Code.CORRUPT_FILE, Code.FOREIGN_FILE)
    assert time.monotonic() - began < 2
    if which == "manifest" and make in (_pipe, _folder, _socket, _endless):
        with pytest.raises(StorageError, match="no file"):
            save(tmp_path, 2)
    else:  # mended by the next save
        save(tmp_path, 2)
        assert loaded(tmp_path) == 2


@pytest.mark.parametrize("make", STRANGE)
def test_a_path_that_only_stands_for_a_file_is_refused_at_once(tmp_path, make):
    path = tmp_path / "learnt.safetensors"
    try:
        make(path)
    except OSError as problem:
        pytest.skip(f"this file system cannot have one: {problem}")
    with pytest.raises(StorageError) as caught:
        storage.read_tensors(path)
    assert caught.value.code is Code.CORRUPT_FILE


def test_a_link_inside_a_folder_is_not_followed_but_a_link_to_a_file_is(tmp_path):
    save(tmp_path / "a", 1)
    tensors = next((tmp_path / "a").glob("*.safetensors"))
    tensors.rename(tmp_path / "moved")
    tensors.symlink_to(tmp_path / "moved")
    with pytest.raises(StorageError, match="symbolic link"):
        storage.read(tmp_path / "a", KIND)
    path = storage.write_tensors(tmp_path / "file", {"a": torch.ones(1)}, {})
    (tmp_path / "latest").symlink_to(path)
    assert storage.read_tensors(tmp_path / "latest")[1]["a"].tolist() == [1]
    (tmp_path / "linked").symlink_to(tmp_path / "b")  # a folder may be one, as the user named it
    save(tmp_path / "b", 4)
    assert loaded(tmp_path / "linked") == 4


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(StorageError) as caught:
            storage.write_tensors(tmp_path / name, {"a": torch.ones(1)}, {})
        assert caught.value.code is Code.NOT_WRITTEN
    with pytest.raises(StorageError):
        storage.write_tensors(Path("a\0b"), {"a": torch.ones(1)}, {})


# -- what is said ------------------------------------------------------------------------------------------


def test_a_manifest_that_was_changed_is_refused_and_one_without_seal_is_read(tmp_path):
    save(tmp_path, 1)
    path = tmp_path / f"{KIND}.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert manifest["bytes"] == next(tmp_path.glob("*.safetensors")).stat().st_size
    path.write_text(json.dumps(manifest, sort_keys=True), encoding="utf-8")  # the same in another order
    assert loaded(tmp_path) == 1
    path.write_text(json.dumps({**manifest, "number": 2}), encoding="utf-8")
    with pytest.raises(StorageError, match="changed since"):
        storage.read(tmp_path, KIND)
    earlier = {k: v for k, v in manifest.items() if k not in ("seal", "bytes")}
    path.write_text(json.dumps(earlier), encoding="utf-8")
    assert loaded(tmp_path) == 1


def test_text_that_is_no_unicode_comes_back(tmp_path):
    name = os.fsdecode(b"bad\xff.png")
    keep(tmp_path, {"names": [name, "ü"]}, {"a": torch.ones(1)})
    assert storage.read(tmp_path, KIND)[0]["names"] == [name, "ü"]
    keep(tmp_path, {"names": ["ü"]}, {"a": torch.ones(1)})
    assert "ü" in (tmp_path / f"{KIND}.json").read_text(encoding="utf-8")


def test_what_json_or_safetensors_cannot_say_is_refused_by_name(tmp_path):
    import numpy as np

    circle: list[object] = []
    circle.append(circle)
    for strange in (object(), {1, 2}, np.ones(3), circle, torch.ones(2), b"bytes", {(1, 2): 3}):
        with pytest.raises(StorageError) as caught:
            keep(tmp_path / "new", {"it": strange}, {})
        assert caught.value.code is Code.NOT_WRITTEN
    plain = {"a": np.int64(3), "b": torch.tensor(0.5), "c": Path("d")}
    keep(tmp_path, plain, {"t": torch.ones(1)})
    assert storage.read(tmp_path, KIND)[0].items() >= {"a": 3, "b": 0.5, "c": "d"}.items()
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(StorageError, match="safetensors"):
        keep(tmp_path, {}, {"t": sparse})
