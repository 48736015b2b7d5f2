"""Shares of units as a table of pandas."""

import sys

import pytest
import torch
from tests.report.samples import WORDS, made, rows, series, text

from abe.errors import Code, InputError, PackageError
from abe.report.frames import errors_of


@pytest.mark.peers
def test_a_line_per_sample_and_unit() -> None:
    pytest.importorskip("pandas")
    table = text(fixed=0.5).to_frame()
    assert list(table.columns) == ["sample", "unit", "value"]
    assert list(table["unit"]) == [*WORDS, "(fixed)"]
    assert list(table["value"]) == [0.5, -1.0, 1.0, 0.125, 0.5]
    two = rows(2).to_frame()
    assert list(two["sample"]) == ["sample 0"] * 4 + ["sample 1"] * 4


def test_standard_errors_are_told_where_they_are_known() -> None:
    errors = torch.tensor([[[0.1, 0.1, 0.2, 0.3]], [[0.0, 0.5, 0.5, 0.5]]])
    labels = torch.tensor([[[0, 0, 1, 1]], [[0, 1, 1, -1]]])
    found = made(
        torch.ones(2, 1, 4),
        torch.ones(2, 1, 4),
        "text",
        labels=labels,
        unit_names=[["whole", "mixed"], ["one", "whole"]],
        unit="word",
        standard_error=errors,
    )
    first, second = errors_of(found, 0, 2), errors_of(found, 1, 3)
    assert first[0] == pytest.approx(0.2)
    assert first[1] != first[1]  # the errors of its numbers differ: nothing says how they go together
    assert list(second[:2]) == pytest.approx([0.0, 1.0])


@pytest.mark.peers
def test_a_table_has_a_column_of_standard_errors() -> None:
    pytest.importorskip("pandas")
    labels = torch.tensor([[[0, 0, 1, 1]]])
    names, errors = [["one", "other"]], torch.full((1, 1, 4), 0.1)
    how = {"labels": labels, "unit_names": names, "unit": "word", "standard_error": errors}
    assert "standard_error" in made(torch.ones(1, 1, 4), torch.ones(1, 1, 4), "text", **how).to_frame()


def test_without_pandas_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(PackageError, match="by_unit") as told:
        text().to_frame()
    assert told.value.code is Code.MISSING_PACKAGE


@pytest.mark.peers
def test_positions_without_names_have_no_table() -> None:
    pytest.importorskip("pandas")
    with pytest.raises(InputError, match="no names"):
        series().to_frame()
