"""What a terminal shows of an explanation: words with their numbers, or colours where there are some."""

import io
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.report.samples import BAD, every, made, rows, series, text

import abe
from abe.report.printed import PLAIN, SAMPLES, told

ALL = every()


def screen(found: Any, *, width: int = 80) -> str:
    """As a terminal with colours gets it."""
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="truecolor", width=width).print(
        told(found, coloured=True)
    )
    return file.getvalue()


def test_words_stand_with_their_shares_and_the_account_follows() -> None:
    assert str(text(fixed=0.5)).splitlines() == [
        "integrated_gradients on 1 text",
        "sample 0, explained: yes",
        f"  a (+0.50) charming (−1.00) journey (+1.00) {BAD} (+0.12)",
        "  logit 1.52 = 0.40 at the reference + 1.12",
        "  the map sums to that change",
        "  fixed positions +0.50",
    ]


def test_no_word_is_parted_from_its_number_and_no_line_is_too_long() -> None:
    names = [f"word{i}" for i in range(300)]
    labels = torch.arange(300).view(1, 1, 300)
    found = made(
        torch.ones(1, 2, 300), torch.ones(1, 2, 300), "text", labels=labels, unit_names=[names], unit="word"
    )
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= PLAIN
    assert all(line.endswith(")") for line in lines[2:-3])
    assert lines[-3] == "  the strongest 80 of 300 words, in their order"


def test_colours_are_those_of_maps_and_their_meaning_is_said() -> None:
    shown = screen(text())
    assert "\x1b[30;48;2;" in shown
    assert "orange supports, blue opposes; strongest: charming −1.00, journey +1.00" in " ".join(
        shown.split()
    )
    assert "(−1.00)" not in shown


def test_columns_are_bars_with_what_is_in_them() -> None:
    lines = str(rows()).splitlines()
    assert lines[2].split() == ["column", "3", "cook", "−1.00", "░" * 20]
    assert lines[3].split() == ["column", "2", "2", "+0.75", "█" * 15]
    shown = str(rows(columns=40))
    assert "29 others" in shown


def test_stretches_of_series_are_bars() -> None:
    assert "channel 0, t 20–24" in str(series())


def test_many_samples_are_cut_and_said() -> None:
    shown = str(rows(SAMPLES + 3))
    assert shown.count("explained: yes") == SAMPLES
    assert "and 3 more: by_unit() and to_frame() have all" in shown


@pytest.mark.parametrize("case", ALL)
def test_every_kind_is_printed_at_any_width(case: str) -> None:
    assert str(ALL[case]).startswith("integrated_gradients on ")
    for width in (20, 40, 200):
        for line in screen(ALL[case], width=width).splitlines():
            assert line.isprintable() or "\x1b" in line


def test_repr_stays_short_and_photographs_print_as_they_did() -> None:
    assert repr(text()).startswith("Explanation of 1 sample by integrated_gradients(steps=50)")
    task = abe.image_task(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval())
    found = abe.explain(task, torch.rand(1, 3, 2, 2), "gradient", progress=False)
    assert str(found) == repr(found)


def test_names_cannot_move_the_cursor() -> None:
    found = rows(unit_names=[["\x1b[2J", "a\rb", "c\nd", "e"]], names=["\x1b]0;x\x07"])
    assert "\x1b" not in str(found)
