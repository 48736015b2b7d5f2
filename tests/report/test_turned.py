"""Texts that run to the left, and the border of a region."""

import numpy as np

from abe.report.blocks import fitted, laid, turned, width_of
from abe.report.numbers import outlined

ROOM = 6.0


def order(*words: str, whole: str) -> list[str]:
    """The words of one line from left to right."""
    pieces = [(word, number) for number, word in enumerate(words)]
    (line,) = laid(pieces, ROOM)
    shown = turned(line, whole, ROOM)
    assert all(0 <= at <= ROOM - width + 1e-6 for at, width, _, _ in shown)
    return [text for _, _, text, _ in shown]


def test_a_text_of_one_direction_is_read_in_it() -> None:
    assert order("a", "dull", "film", whole="L") == ["a", "dull", "film"]
    assert order("كان", "الفيلم", "رائعا", whole="R") == ["رائعا", "الفيلم", "كان"]


def test_words_of_the_other_direction_keep_together() -> None:
    assert order("كان", "very", "good", "رائعا", whole="R") == ["رائعا", "very", "good", "كان"]
    assert order("a", "كان", "رائعا", "film", whole="L") == ["a", "رائعا", "كان", "film"]


def test_a_line_that_is_too_long_is_cut() -> None:
    cut = fitted("a long name of a channel", 7.5, 0.6)
    assert cut.endswith("…")
    assert width_of(cut, 7.5) <= 0.6
    assert fitted("short", 7.5, 2.0) == "short"


def test_a_region_is_white_within_and_black_around() -> None:
    image = np.full((7, 7, 3), 128, np.uint8)
    region = np.zeros((7, 7), bool)
    region[2:5, 2:5] = True
    found = outlined(image, region)
    assert found[3, 3].tolist() == [128] * 3
    assert found[2, 2].tolist() == [255] * 3
    assert found[1, 3].tolist() == [0] * 3
    assert found[0, 0].tolist() == [128] * 3
    assert outlined(image, ~np.zeros((7, 7), bool)).tolist() == image.tolist()
