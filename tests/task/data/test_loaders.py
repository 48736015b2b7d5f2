"""Samples from where they lie: all that can be read, in order, and the rest counted and named."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import abe
from abe.errors import AbeError, Code

QUIET: dict[str, Any] = {"progress": False}
X = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def task(**settings: Any) -> abe.Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    given: dict[str, Any] = {"labels": ["cat", "dog"], **settings}
    return abe.image_task(model, **given)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of three, one of which is broken, beside what is no photograph."""
    root = tmp_path / "photographs"
    for place, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(3):
            pixels = (X[(3 * place + i) % 5] * 255).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    (root / "cat" / "1.png").write_bytes(b"no picture")
    (root / "dog" / "2.png").write_bytes((root / "dog" / "0.png").read_bytes()[:90])
    (root / "dog" / "notes.md").write_text("none")
    (root / "dog" / ".hidden").write_text("none")
    return root


class Failing(Dataset[tuple[Tensor, int]]):
    """A data set of which one item cannot be read."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 3:
            raise OSError("disk")
        return X[index], index % 2


def together(source: Any, **settings: Any) -> tuple[list[str], list[Any], list[str]]:
    """Names, labels and notes of all batches."""
    batches = list(abe.samples(source, **settings))
    names = [name for one in batches for name in one["names"]]
    labels = [label for one in batches for label in one.get("labels", [])]
    return names, labels, [text for one in batches for text in one.get("notes", [])]


def refused(code: Code, source: Any, *parts: str, **settings: Any) -> None:
    with pytest.raises(AbeError) as caught:
        list(abe.samples(source, **settings))
    assert caught.value.code is code, caught.value
    for part in parts:
        assert part in str(caught.value)


# --- folders -----------------------------------------------------------------------------------------


def test_a_folder_gives_photographs_with_its_folders_as_labels(photographs: Path):
    names, labels, notes = together(photographs, batch=2)
    assert names == ["cat/0.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    assert labels == ["cat", "cat", "dog", "dog"]
    assert len(notes) == 2
    assert "1 item that could not be read is left out: cat/1.png (it is no photograph)" in notes[0]
    assert "2 items" in notes[1]
    assert "dog/2.png (OSError: " in notes[1]
    assert "dog/notes.md (no photograph)" in notes[1]
    assert all(Code.SKIPPED in text for text in notes)
    assert together(photographs, labels=False)[1] == []
    assert together(photographs, classes=["dog", "cat"])[1] == [1, 1, 0, 0]
    assert together(photographs, pattern="0.*")[0] == ["cat/0.png", "dog/0.png"]


def test_a_folder_of_photographs_is_compared_and_its_gaps_are_said(photographs: Path):
    stream = abe.samples(photographs, batch=3)
    found = abe.compare(task(), stream, ["gradient"], ["insertion"], **QUIET)
    assert found.names == ["cat/0.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    told = [text for text in found.origins["gradient"].warnings if Code.SKIPPED in text]
    assert len(told) == 2
    assert [name for name, _ in stream.skipped] == ["cat/1.png", "dog/2.png", "dog/notes.md"]
    again = abe.evaluate(task(), {"gradient": "gradient"}, ["insertion"], data=stream, **QUIET)
    for name, one in found.scores.items():
        torch.testing.assert_close(one["insertion"].values, again.scores[name]["insertion"].values)
    files = [photographs / name for name in found.names]
    whole = abe.compare(task(), files, ["gradient"], ["insertion"], **QUIET)
    torch.testing.assert_close(
        whole.scores["gradient"]["insertion"].values, found.scores["gradient"]["insertion"].values
    )


def test_learning_from_a_folder(photographs: Path):
    learnt: Any = abe.fit(task(), abe.samples(photographs, batch=2), "iba", layer="0")
    assert learnt.count == 4
    assert sum(Code.SKIPPED in text for text in learnt.notes) == 2
    learnt = abe.fit(task(), abe.samples(photographs, batch=2), "cxplain", epochs=2, cells=2, width=2)
    assert sum(Code.SKIPPED in text for text in learnt.notes) == 2


def test_class_folders_that_the_task_does_not_know_say_what_to_do(photographs: Path):
    with pytest.raises(AbeError, match=r"Pass labels=\[…\] to the task") as caught:
        abe.compare(task(labels=None), abe.samples(photographs), ["gradient"], ["insertion"], **QUIET)
    assert caught.value.code is Code.LABELS


def test_folders_with_numbers_are_class_numbers(tmp_path: Path):
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"text {name}\n")
    names, labels, _ = together(tmp_path)
    assert (names, labels) == (["0/a.txt", "1/a.txt"], [0, 1])
    assert next(iter(abe.samples(tmp_path)))["inputs"] == ["text 0", "text 1"]


def test_folders_that_are_not_clear(photographs: Path, tmp_path: Path):
    refused(Code.LABELS, photographs, "'cat'", classes=["dog"])
    refused(Code.BAD_PARAMETER, photographs, "has no columns", text="a")
    refused(Code.BAD_PARAMETER, photographs, "labels=False", labels=[0, 1])
    refused(Code.LOADING, tmp_path / "nowhere", "no such file")
    (tmp_path / "empty").mkdir()
    refused(Code.EMPTY_BATCH, tmp_path / "empty", "no photograph and no text")
    (photographs / "loose.png").write_bytes((photographs / "cat" / "0.png").read_bytes())
    refused(Code.BAD_PARAMETER, photographs, "loose.png")
    (photographs / "cat" / "a.txt").write_text("text")
    refused(Code.BAD_PARAMETER, photographs, "pattern=")
    refused(Code.BAD_PARAMETER, photographs / "cat" / "0.png", "list of paths")


# --- arrays, data sets and loaders ---------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tensor", "array", "list", "data set", "iterator", "file", "pairs"])
def test_everything_that_holds_samples_gives_all_of_them(form: str, tmp_path: Path):
    np.save(tmp_path / "x.npy", X.numpy())
    labels = [0, 1, 0, 1, 1]
    forms: dict[str, Any] = {
        "tensor": X,
        "array": X.numpy(),
        "list": list(X),
        "data set": TensorDataset(X, torch.tensor(labels)),
        "iterator": iter(X),
        "file": tmp_path / "x.npy",
        "pairs": list(zip(X, labels, strict=True)),
    }
    apart: dict[str, Any] = {} if form in ("data set", "pairs") else {"labels": torch.tensor(labels)}
    batches = list(abe.samples(forms[form], batch=2, **apart))
    assert [len(one["inputs"]) for one in batches] == [2, 2, 1]
    assert [label for one in batches for label in one["labels"]] == labels
    torch.testing.assert_close(torch.cat([torch.as_tensor(one["inputs"]) for one in batches]), X)
    assert batches[1]["names"] == ["item 2", "item 3"]


@settings(max_examples=30)
@given(good=st.lists(st.booleans(), min_size=1, max_size=20), batch=st.integers(1, 6))
def test_what_cannot_be_read_is_left_out_wherever_it_is(good: list[bool], batch: int):
    x = torch.arange(float(len(good))).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    x[~torch.tensor(good)] = torch.nan
    stream = abe.samples(x, batch=batch)
    if not any(good):
        with pytest.raises(AbeError, match="NaN or infinity"):
            list(stream)
        return
    batches = list(stream)
    kept = [i for i, fine in enumerate(good) if fine]
    assert torch.cat([one["inputs"] for one in batches])[:, 0, 0, 0].tolist() == kept
    assert [name for one in batches for name in one["names"]] == [f"item {i}" for i in kept]
    assert all(len(one["inputs"]) == batch for one in batches[:-1])
    told = " ".join(text for one in batches for text in one.get("notes", []))
    counted = [int(text.split()[0]) for one in batches for text in one.get("notes", [])]
    assert sum(counted) == len(stream.skipped) == len(good) - len(kept)
    assert told.count("NaN or infinity") == sum(min(number, 6) for number in counted)


def test_a_data_set_with_a_bad_item():
    names, labels, notes = together(Failing(), batch=2)
    assert names == ["item 0", "item 1", "item 2", "item 4"]
    assert labels == [0, 1, 0, 0]
    assert "item 3 (OSError: disk)" in notes[0]
    refused(
        Code.LOADING, Failing(), "item 3", "OSError: disk", "3 items", "1 whole batches", strict=True, batch=2
    )


def test_a_loader_that_fails_half_way_says_where_and_what_was_done():
    loader = abe.samples(DataLoader(Failing(), batch_size=2))
    got = []
    with pytest.raises(AbeError, match=r"batch 1.*1 batch could be read, and 1 whole batches") as caught:
        got.extend(loader)
    assert caught.value.code is Code.LOADING
    assert torch.equal(got[0]["inputs"], X[:2])

    def gone() -> Iterator[Tensor]:
        yield from X[:3]
        raise ConnectionError("gone")

    with pytest.raises(AbeError, match=r"item 3.*ConnectionError: gone.*3 items"):
        abe.compare(task(), abe.samples(gone(), batch=2), ["gradient"], ["insertion"], **QUIET)


def test_the_batches_of_a_loader_are_its_own():
    batches = list(abe.samples(DataLoader(TensorDataset(X, torch.tensor([0, 1, 0, 1, 1])), batch_size=3)))
    assert [len(one["inputs"]) for one in batches] == [3, 2]
    assert torch.equal(batches[1]["labels"], torch.tensor([1, 1]))
    (alone,) = abe.samples(DataLoader(TensorDataset(X), batch_size=5))
    assert set(alone) == {"inputs"}
    refused(Code.BAD_PARAMETER, DataLoader(TensorDataset(X)), "batch=", batch=2)
    rows: Any = [{"input_ids": torch.tensor([1, 2]), "labels": 1}] * 2
    (named,) = abe.samples(DataLoader(rows, batch_size=2))
    assert set(named["inputs"]) == {"input_ids"}
    assert named["labels"].tolist() == [1, 1]


def test_lists_of_paths_and_texts(photographs: Path):
    paths = [str(photographs / "cat" / "0.png"), str(photographs / "cat" / "9.png")]
    names, _, notes = together(paths)
    assert names == ["0.png"]
    assert "9.png (there is no such file)" in notes[0]
    assert together(["a film", " "])[0] == ["item 0"]
    refused(Code.BAD_PARAMETER, ["a.png", "a film"], "'a film'")


# --- tables and texts ----------------------------------------------------------------------------------


ROWS = [
    ["text", "label", "age", "sort"],
    ["a fine, long film", "1", "20", "b"],
    ["", "0", "3.5", "a"],
    ["a bad film", "", "4", "a"],
    ["the end", "0", "", "a"],
    ["odd", "1"],
    ["last", "0", "7", "c"],
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        csv.writer(out).writerows(ROWS)
    return file


def test_the_texts_of_a_table(table: Path):
    names, labels, notes = together(table, text="text", label="label")
    assert names == ["row 0", "row 3", "row 5"]
    assert labels == [1, 0, 0]
    assert "3 items" in notes[0]
    for part in ("row 1 (no text in text)", "row 2 (no label)", "row 4 (2 cells for 4 columns)"):
        assert part in notes[0]
    batch = next(iter(abe.samples(table, text="text")))
    assert batch["inputs"][0] == "a fine, long film"


def test_the_columns_of_a_table(table: Path):
    (batch,) = abe.samples(table, columns=["age", "sort"], label="label")
    assert batch["inputs"] == {"age": [20, 3.5, 7], "sort": ["b", "a", "c"]}
    assert batch["labels"] == [1, 0, 0]


def test_tables_that_are_not_clear(table: Path, tmp_path: Path):
    refused(Code.BAD_PARAMETER, table, "'txt'", "Did you mean 'text'?", text="txt")
    refused(Code.BAD_PARAMETER, table, "text= and columns=", text="text", columns=["age"])
    refused(Code.LABELS, table, "1 labels", labels=[1], text="text")
    refused(Code.LABELS, table, "9 labels for 6 items", labels=[1] * 9, text="text")
    for name, content, code, part in (
        ("a.csv", b"", Code.EMPTY_BATCH, "empty"),
        ("b.csv", b"a,b\n", Code.EMPTY_BATCH, "empty source"),
        ("c.csv", b"a;b\n1;2\n", Code.BAD_PARAMETER, "delimiter="),
        ("d.csv", b"a,a\n1,2\n", Code.DUPLICATE_NAME, "'a'"),
        ("e.csv", b"a,b\n\xff,2\n", Code.LOADING, "UnicodeDecodeError"),
        ("f.docx", b"", Code.BAD_PARAMETER, ".csv"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(code, tmp_path / name, part)
    (tmp_path / "g.csv").write_bytes(b"a,b\n" + b"1,2\n" * 9000 + b"\xff,3\n")
    refused(Code.LOADING, tmp_path / "g.csv", "Loading failed at row", "rows could be read", batch=100)
    tabs = tmp_path / "t.tsv"
    tabs.write_text("a\tb\n1\t2\n")
    assert next(iter(abe.samples(tabs)))["inputs"] == {"a": [1], "b": [2]}


def test_the_lines_of_a_file(tmp_path: Path):
    file = tmp_path / "texts.txt"
    file.write_text("one film\n\ntwo films\n", encoding="utf-8")
    names, labels, _ = together(file, labels=["good", "bad"])
    assert (names, labels) == (["text 0", "text 1"], ["good", "bad"])
    refused(Code.BAD_PARAMETER, file, "no columns", text="a")
    refused(Code.LABELS, file, labels=["good"])


def test_texts_of_a_table_are_compared(table: Path):
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(30, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids).sum(1))

    def tokenizer(text: str) -> list[int]:
        return [len(word) for word in text.split()]

    stream = abe.samples(table, text="text", label="label", batch=2)
    found = abe.compare(Bag(), stream, ["gradient_x_input"], ["insertion"], tokenizer=tokenizer, **QUIET)
    assert found.names == ["row 0", "row 3", "row 5"]
    assert any(Code.SKIPPED in text for text in found.origins["gradient_x_input"].warnings)


class Frame:
    """As much of a table as is asked of one."""

    iloc, ndim = None, 2

    def __init__(self, **columns: list[Any]) -> None:
        self.columns, self.held = list(columns), columns

    def __len__(self) -> int:
        return len(self.held[self.columns[0]])

    def __getitem__(self, name: str) -> Any:
        return np.array(self.held[name], dtype=object)


def test_a_data_frame():
    frame = Frame(a=[1.5, float("nan"), 2.0], c=["r", "g", "b"], y=[1, 0, 0])
    (batch,) = abe.samples(frame, label="y")
    assert batch["inputs"] == {"a": [1.5, 2.0], "c": ["r", "b"]}
    assert batch["labels"] == [1, 0]
    assert "row 1 (nothing in a)" in batch["notes"][0]
    refused(Code.BAD_PARAMETER, frame, "'z'", columns=["z"])
    refused(Code.LABELS, frame, "2 labels for 3 items", labels=[1, 2])


@pytest.mark.peers
def test_parquet(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", None, "b"], "y": [1, 0, 0]}), file)
    assert together(file, text="text", label="y")[:2] == (["row 0", "row 2"], [1, 0])
    file.write_bytes(b"x")
    refused(Code.LOADING, file, "cannot be read")


def test_parquet_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "rows.parquet").write_bytes(b"x")
    refused(Code.MISSING_PACKAGE, tmp_path / "rows.parquet", "Install pyarrow")


# --- items ---------------------------------------------------------------------------------------------


def test_items_that_are_not_clear():
    refused(Code.BAD_PARAMETER, [{"a": 1}], "text= or columns=")
    refused(Code.BAD_PARAMETER, [(X[0], 1, 2)], "(input, label)")
    refused(Code.BAD_PARAMETER, [(X[0], 1)], "beside labels=", labels=[1])
    refused(Code.BAD_PARAMETER, X, "no columns", text="a")
    refused(Code.LABELS, [{"inputs": X[0], "labels": 1}, {"inputs": X[1]}], "item 1")
    for nothing in (3, None, {"a": 1}, torch.tensor(1.0)):
        refused(Code.BAD_PARAMETER, nothing, "cannot be read from this")
    refused(Code.EMPTY_BATCH, [])
    refused(Code.BAD_PARAMETER, X, batch=0)
    refused(Code.LABELS, X, "1 labels for 5 items", labels=[0])
    refused(Code.LABELS, X, "one each", labels="cat")


def test_batches_are_not_explained_as_one():
    with pytest.raises(AbeError, match="one after the other") as caught:
        abe.explain(task(), abe.samples(X, batch=2), "gradient", **QUIET)
    assert caught.value.code is Code.SHAPE
    batch = next(iter(abe.samples(X, batch=2)))
    assert len(abe.explain(task(), batch["inputs"], "gradient", **QUIET)) == 2


def test_rows_by_name():
    rows = [{"t": "a film", "y": "good"}, {"t": " ", "y": "bad"}]
    names, labels, notes = together(rows, text="t", label="y")
    assert (names, labels) == (["item 0"], ["good"])
    assert "item 1 (no text in t)" in notes[0]
    assert repr(abe.samples(rows)) == "Samples(items, batches of 32, 0 left out so far)"
