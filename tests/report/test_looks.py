"""What is looked at of every kind of sample: nothing of a map is lost, and nothing is made up."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report.samples import BAD, WORDS, every, made, points, rows, series, several, text, volume

from abe.report.looks import LISTED, account, looks, noun, pieces, strongest
from abe.report.numbers import percent, signed

ALL = every()


@pytest.mark.parametrize("case", ALL)
def test_what_is_looked_at_sums_to_the_map(case: str) -> None:
    found = ALL[case]
    for index in range(len(found)):
        shown = looks(found, index)
        total = sum(float(look.values.sum()) + look.fixed for look in shown)
        assert total == pytest.approx(float(found.attribution[index].sum()), abs=1e-5)
        for look in shown:
            if look.entries and len(look.entries) < LISTED and look.kind != "points":
                assert sum(v for *_, v in look.entries) == pytest.approx(float(look.values.sum()), abs=1e-5)


@pytest.mark.parametrize(
    ("case", "kinds"),
    [
        ("text", ["words"]),
        ("rows", ["columns"]),
        ("vector", ["columns"]),
        ("series", ["lines"]),
        ("grid", ["picture"]),
        ("volume", ["slices"]),
        ("video", ["slices"]),
        ("points", ["points"]),
        ("several", ["picture", "columns"]),
    ],
)
def test_shapes_units_and_modalities_decide_how_it_is_shown(case: str, kinds: list[str]) -> None:
    assert [look.kind for look in looks(ALL[case], 0)] == kinds


def test_three_channels_are_points_only_where_their_unit_says_so() -> None:
    as_series = made(torch.zeros(1, 3, 9), torch.zeros(1, 3, 9), "tensor")
    assert [look.kind for look in looks(as_series, 0)] == ["lines"]


def test_words_are_summed_over_their_pieces_and_keep_what_lies_between() -> None:
    (look,) = looks(text(fixed=0.5), 0)
    assert [(name, value) for name, _, value in look.entries] == [
        ("a", 0.5),
        ("charming", -1.0),
        ("journey", 1.0),
        (BAD, 0.125),
    ]
    assert "".join(piece for piece, _ in look.pieces) == f"a  charming journey {BAD}!"
    assert [piece for piece, word in look.pieces if word >= 0] == WORDS
    assert look.fixed == 0.5
    assert look.bound == 1.0


def test_a_pair_is_shown_with_both_its_texts() -> None:
    found = pieces(["a dog barks", "a cat"], ["a", "dog", "barks", "a", "cat"])
    assert "".join(piece for piece, _ in found) == "a dog barks ‖ a cat"
    assert [word for _, word in found if word >= 0] == [0, 1, 2, 3, 4]


@settings(max_examples=50)
@given(st.lists(st.text(min_size=0, max_size=6), max_size=8), st.one_of(st.none(), st.text(max_size=30)))
def test_pieces_have_every_word_once_in_order(words: list[str], shown: str | None) -> None:
    assert [number for _, number in pieces(shown, words) if number >= 0] == list(range(len(words)))


def test_columns_say_what_is_in_them_and_groups_that_are_none_stay_empty() -> None:
    found = rows()
    found.unit_names = [["age", BAD, "not a column", "column 3"]]
    (look,) = looks(found, 0)
    assert [there for _, there, _ in look.entries] == ["0", "1", "", "cook"]


def test_stretches_slices_and_points_are_told_by_their_place() -> None:
    (line,) = looks(series(), 0)
    assert ("channel 1, t 20–24", "", 1.0) in line.entries
    (block,) = looks(volume(), 0)
    assert block.entries[3][:2] == ("slice 3", "90 % of the magnitude")
    (cloud,) = looks(points(), 0)
    assert [(name, value) for name, _, value in cloud.entries[:2]] == [("point 7", 2.0), ("point 8", -1.0)]


def test_inputs_of_several_keep_their_names_and_shapes() -> None:
    picture, numbers = looks(several(), 0)
    assert (picture.title, picture.values.shape) == ("image", (4, 4))
    assert numbers.title == BAD
    assert [value for *_, value in numbers.entries] == [0.5, -0.25, 0.0]


def test_units_of_one_of_several_inputs_belong_to_it() -> None:
    labels = torch.full((1, 51), -1)
    labels[0, 48:] = torch.tensor([0, 1, 1])
    found = several(labels=labels, unit_names=[["age", "place"]], unit="column")
    _, numbers = looks(found, 0)
    assert [(name, value) for name, _, value in numbers.entries] == [("age", 0.5), ("place", -0.25)]


def test_the_account_says_where_the_score_comes_from_and_what_is_missing() -> None:
    exact = account(text(), 0)
    assert exact.said() == ["logit 1.02 = 0.40 at the reference + 0.62", "the map sums to that change"]
    missing = account(text(delta=torch.tensor([1.25]), score=torch.tensor([1.65])), 0)
    assert missing.said()[1] == "the map misses +0.62 of that change (50 %)"
    assert account(text(fixed=0.5), 0).said()[-1] == "fixed positions +0.50"
    (only,) = account(text(start=None, score=torch.tensor([math.nan])), 0).said()
    assert only == "the map sums to +0.62, which claims no part of the score"
    nothing = account(made(torch.zeros(1, 3), torch.ones(1, 3), "tabular"), 0).said()
    assert nothing == ["logit 0.40 = 0.40 at the reference + 0.00", "the map sums to that change"]


def test_the_strongest_come_first_and_the_others_are_kept() -> None:
    (look,) = looks(rows(columns=40), 0)
    first, others = strongest(look, 12)
    assert [name for name, *_ in first[:2]] == ["column 39", "column 38"]
    assert len(first) + len(others) == 40


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1.314, "+1.31"),
        (-0.05, "−0.050"),
        (0.0, "+0.00"),
        (1e-7, "+1.0e-07"),
        (123456.0, "+1.2e+05"),
        (math.nan, "–"),
    ],
)
def test_shares_have_their_sign(value: float, said: str) -> None:
    assert signed(value) == said


def test_a_share_that_rounds_to_nothing_has_no_sign() -> None:
    assert (percent(-1e-9), percent(-0.02)) == ("0.00 %", "−2.0 %")


def test_samples_are_called_what_they_are() -> None:
    assert [
        noun(m, n) for m, n in (("image", 1), ("text", 2), ("tabular", 2), ("series", 2), ("several", 1))
    ] == [
        "photograph",
        "texts",
        "rows",
        "series",
        "sample",
    ]


def test_a_map_of_one_channel_is_read_over_all() -> None:
    found = series(3)
    found.attribution = found.attribution.sum(1, keepdim=True)
    (look,) = looks(found, 0)
    assert look.values.shape == (1, 40)
    assert np.isclose(look.values.sum(), 3.0)


def test_channels_are_called_what_their_windows_begin_with() -> None:
    labels = torch.tensor([[[0, 0, 2, 2], [1, 1, 3, 3]]])
    names = ["heart rate 0–1 s", f"{BAD} t 0–1", "heart rate 2–3 s", f"{BAD} t 2–3"]
    attribution = torch.ones(1, 2, 4)
    found = made(attribution, attribution, "series", labels=labels, unit_names=[names], unit="window_channel")
    (look,) = looks(found, 0)
    assert look.rows == ["heart rate", BAD]
    whole = torch.tensor([[[0, 0], [1, 1]]])
    one = made(torch.ones(1, 2, 2), torch.ones(1, 2, 2), "series", labels=whole, unit_names=[["ecg", "resp"]])
    assert looks(one, 0)[0].rows == ["ecg", "resp"]
    named_alike = made(
        torch.ones(1, 2, 2), torch.ones(1, 2, 2), "series", labels=whole, unit_names=[["a", "a"]]
    )
    assert looks(named_alike, 0)[0].rows == ["channel 0", "channel 1"]
    fixed = made(torch.ones(1, 2, 2), torch.ones(1, 2, 2), "series", labels=whole - 1, unit_names=[["ecg"]])
    assert looks(fixed, 0)[0].rows == ["channel 0", "ecg"]
    assert looks(series(), 0)[0].rows == ["channel 0", "channel 1"]


def test_padding_behind_a_series_is_not_drawn_as_data() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, -1, -1]]])
    attribution = torch.tensor([[[1.0, 1, 2, 2, 0, 0]]])
    named = {"unit": "window", "labels": labels, "unit_names": [["t 0–1", "t 2–3"]]}
    (found,) = looks(made(attribution, torch.rand(1, 1, 6), "series", **named), 0)
    assert found.ground is not None
    assert (found.ground.shape, found.values.shape) == ((1, 4), (1, 4))
    assert [value for *_, value in found.entries] == [2, 4]
    attribution[0, 0, 5] = 0.5  # what a gradient gives to a fixed step is shown
    (found,) = looks(made(attribution, torch.rand(1, 1, 6), "series", **named), 0)
    assert (found.values.shape, found.fixed) == ((1, 6), 0.5)
