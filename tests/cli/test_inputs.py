"""Words of the command line as values."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from abe.cli.inputs import names, parameters, read_labels, step_of
from abe.cli.output import plain
from abe.errors import SpecError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("steps=100", 100),
        ("sigma=.5", 0.5),
        ("sigma=1e-3", 1e-3),
        ("absolute=true", True),
        ("tolerance=none", None),
        ("baseline=blur", "blur"),
        ("baseline=('constant', {'value': .5})", ("constant", {"value": 0.5})),
        ("path=a=b", "a=b"),
        ("expression=__import__('os')", "__import__('os')"),
    ],
)
def test_parameters_are_numbers_words_or_literals(text: str, value: Any) -> None:
    assert list(parameters([text]).values()) == [value]


def test_a_step_is_a_count_or_a_share() -> None:
    assert [step_of(text) for text in ("2000", "0.05", "5%", None)] == [2000, 0.05, 0.05, None]
    for bad in ("0", "-1", "1.5", "200%", "many"):
        with pytest.raises(SpecError):
            step_of(bad)


def test_lists_drop_blanks_and_repeats() -> None:
    assert names(" ig, gradient,,ig ") == ["ig", "gradient"]
    assert names(None) is None


def test_labels_are_lines_or_a_json_list(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ant\nbee\n", encoding="utf-8")
    (tmp_path / "a.json").write_text('["ant", "bee"]', encoding="utf-8")
    (tmp_path / "b.json").write_text('{"ant": 0}', encoding="utf-8")
    (tmp_path / "c.txt").write_text("", encoding="utf-8")
    (tmp_path / "d.json").write_text('[["ant"], ["bee"]]', encoding="utf-8")
    (tmp_path / "e.json").write_text('{"1": "bee", "0": "ant"}', encoding="utf-8")
    (tmp_path / "f.txt").write_text("\ufeffant\nbee\n\n", encoding="utf-8")
    assert read_labels(tmp_path / "a.txt") == read_labels(tmp_path / "a.json") == ["ant", "bee"]
    assert read_labels(tmp_path / "e.json") == read_labels(tmp_path / "f.txt") == ["ant", "bee"]
    for bad in ("b.json", "c.txt", "d.json", "none.txt"):
        with pytest.raises(SpecError, match="labels"):
            read_labels(tmp_path / bad)


def test_json_has_no_infinity_and_no_tensor() -> None:
    data = {"a": math.inf, "b": math.nan, "c": torch.tensor([1.0, math.inf]), 3: (True, None), "p": Path("x")}
    assert plain(data) == {"a": None, "b": None, "c": [1.0, None], "3": [True, None], "p": "x"}
