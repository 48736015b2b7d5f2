"""Tables and series: files of the real form, made here, and the real ones where they are installed."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.task.zoo.packages import package

from abe.task import zoo
from abe.task.zoo import series, tables
from abe.task.zoo.entries import ENTRIES

IRIS = "3,4,setosa,versicolor,virginica\n5.1,3.5,1.4,0.2,0\n4.9,3,1.4,0.2,2\n7,3.2,4.7,1.4,1\n"
TITANIC = '"gender","age","class","fare","survived"\n"male",42,"3rd",7.11,0\n"female",13,"1st",20.5,1\n'
VOWELS = """#Comment: with @data in it
@problemName Vowels
@univariate false
@classLabel true a b
@data
1,2,3:4,5,6:b
7,8:9,10:a
"""
REAL = {
    "iris": (150, 4, 3),
    "wine": (178, 13, 3),
    "breast-cancer": (569, 30, 2),
    "diabetes": (442, 10, 0),
    "titanic": (2207, 7, 2),
    "german-credit": (1000, 9, 2),
    "apartments": (1000, 5, 0),
    "gunpoint": (200, 1, 150, 2),
    "italy-power-demand": (1096, 1, 24, 2),
    "basic-motions": (80, 6, 100, 4),
    "japanese-vowels": (640, 12, 29, 9),
}
"""Rows, columns or channels and steps, and classes."""


def test_a_table_with_its_counts_in_the_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = package("own_iris", {"iris.csv": IRIS.encode()}, tmp_path, monkeypatch)["iris.csv"]
    monkeypatch.setitem(tables.LAYOUTS, "iris", replace(tables.LAYOUTS["iris"], files=(file,)))
    found = zoo.load("iris")
    assert next(iter(found.columns)) == "sepal length (cm)"
    assert found.columns["sepal width (cm)"].tolist() == [3.5, 3.0, 3.2]
    assert found.target.tolist() == [0, 2, 1]
    assert found.classes == ("setosa", "versicolor", "virginica")
    assert found.values.shape == (3, 4)
    assert repr(found) == "Table(3 rows, 4 columns, 3 classes of species)"


def test_a_table_whose_target_lies_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "\n".join(" ".join(str(row * 10 + column) for column in range(10)) for row in range(3))
    files = {"x.csv.gz": gzip.compress(rows.encode()), "y.csv.gz": gzip.compress(b"1.5\n2.5\n3.5\n")}
    found = package("own_diabetes", files, tmp_path, monkeypatch)
    layout = replace(tables.LAYOUTS["diabetes"], files=tuple(found.values()))
    monkeypatch.setitem(tables.LAYOUTS, "diabetes", layout)
    table = zoo.load("diabetes")
    assert table.target.tolist() == [1.5, 2.5, 3.5]
    assert table.classes == ()
    assert table.columns["sex"].tolist() == [1.0, 11.0, 21.0]


def test_a_table_with_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = package("own_titanic", {"t.csv": TITANIC.encode()}, tmp_path, monkeypatch)["t.csv"]
    monkeypatch.setitem(tables.LAYOUTS, "titanic", replace(tables.LAYOUTS["titanic"], files=(file,)))
    found = zoo.load("titanic")
    assert found.categories == {"gender": ("female", "male"), "class": ("1st", "3rd")}
    assert found.values.tolist() == [[1, 42, 1, 7.11], [0, 13, 0, 20.5]]
    assert next(found.rows()) == {"gender": "male", "age": 42.0, "class": "3rd", "fare": 7.11}
    assert (found.target.tolist(), found.classes) == ([0, 1], ("died", "survived"))


def test_series_of_several_channels_and_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"a_TRAIN.ts": VOWELS.encode(), "a_TEST.ts": VOWELS.replace("7,8:9,10:a", "").encode()}
    files = package("own_series", parts, tmp_path, monkeypatch)
    archive = replace(series.ARCHIVES["japanese-vowels"], files=tuple(files.values()))
    monkeypatch.setitem(series.ARCHIVES, "japanese-vowels", archive)
    found = zoo.load("japanese-vowels")
    assert found.x.tolist()[:2] == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 0], [9, 10, 0]]]
    assert found.lengths.tolist() == [3, 2, 3]
    assert (found.target.tolist(), found.classes) == ([1, 0, 1], ("a", "b"))
    assert found.train.tolist() == [True, True, False]
    assert repr(found) == "SeriesSet(3 of 2 × 2 to 3 steps, 2 classes)"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if zoo.entry(n).installed else pytest.mark.peers) for n in REAL]
)
def test_the_real_data_have_the_sizes_that_are_stated(name: str) -> None:
    entry = zoo.entry(name)
    if not entry.installed:
        pytest.skip(f"not installed: {entry.command}")
    found = zoo.load(name)
    if entry.kind == "table":
        assert (len(found), len(found.columns), len(found.classes)) == REAL[name]
        assert np.isfinite(found.values).all()
        assert found.values.shape == REAL[name][:2]
    else:
        assert (*found.x.shape, len(found.classes)) == REAL[name]
        assert np.isfinite(found.x).all()
    if found.classes:
        assert sorted(set(found.target.tolist())) == list(range(len(found.classes)))


def test_all_tables_and_series_are_in_the_zoo() -> None:
    assert {one.name for one in ENTRIES if one.kind in ("table", "series")} == set(REAL)
