"""Panels: what is on them, and that nothing of matplotlib's global state is touched."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from tests.report.common import hostile, tiny

import abe
from abe.errors import SpecError, StorageError
from abe.report import view
from abe.report.figures import plot_comparison, plot_explanation
from abe.task import zoo


def test_an_explanation_is_drawn_with_names_and_probabilities(tmp_path: Path) -> None:
    photos = zoo.photographs(["coffee", "chelsea"])
    explanation = abe.explain(zoo.efficientnet_lite0(), list(photos.values()), "gradient")
    before = dict(matplotlib.rcParams)
    figure = plot_explanation(explanation, path=tmp_path / "maps.png")
    texts = {text.get_text() for axes in figure.axes for text in axes.texts}
    titles = {axes.get_title() for axes in figure.axes}
    assert {"espresso", "Egyptian Mau"} <= texts | titles
    assert any(text.endswith(" %  espresso") for text in texts)  # the number, then the name
    assert isinstance(figure.canvas, FigureCanvasAgg)
    assert figure.canvas.manager is None
    assert dict(matplotlib.rcParams) == before
    with Image.open(tmp_path / "maps.png") as image:
        assert image.width > 800


def test_a_comparison_gives_a_panel_per_photograph(tmp_path: Path) -> None:
    comparison = hostile()
    figures = plot_comparison(comparison, folder=tmp_path)
    assert len(figures) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cost--5_x----more.png",
        "script.png",
    ]
    titles = " ".join(axes.get_title() for axes in figures[1].axes)
    assert r"cost \$5_x\$ & more" in titles  # escaped, so that it is not read as mathematics
    assert "INS" in titles


def test_smoothing_is_said_and_can_be_off() -> None:
    explanation = abe.explain(tiny(), zoo.photographs(["coffee"])["coffee"], "gradient")
    assert "averaged with σ = 0.8 % of the longer side" in plot_explanation(explanation).get_supxlabel()
    assert "every pixel as computed" in plot_explanation(explanation, smooth=0).get_supxlabel()
    assert "averaged with σ = 2 pixels" in plot_explanation(explanation, smooth=2).get_supxlabel()


def test_pictures_are_small_and_every_script_is_quiet(tmp_path: Path) -> None:
    explanation = replace(
        abe.explain(tiny(), zoo.photographs(["coffee"])["coffee"], "gradient"), target_names=["猫 🐈"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_explanation(explanation, path=tmp_path / "no-suffix")
    assert [path.name for path in tmp_path.iterdir()] == ["no-suffix.png"]
    assert (tmp_path / "no-suffix.png").stat().st_size < 400_000


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_can_be_shown(channels: int) -> None:
    x = torch.linspace(-3, 7, channels * 12).view(channels, 3, 4)
    shown = view.pixels(x)
    assert shown.shape == (3, 4, 3)
    assert (shown.min(), shown.max()) == (0, 255)


def test_pixels_inside_the_unit_range_keep_their_values() -> None:
    assert view.pixels(torch.full((3, 2, 2), 0.4)).tolist() == [[[102] * 3] * 2] * 2


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(SpecError, match="Only images"):
        view.pixels(torch.zeros(5))


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    explanation = abe.explain(tiny(), zoo.photographs(["coffee"])["coffee"], "gradient")
    with pytest.raises(StorageError, match="format"):
        plot_explanation(explanation, path=tmp_path / "maps.xyz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0.000"),
        (-0.5, "−0.500"),
        (1e-9, "1.0e−09"),
        (3.14159, "3.142"),
    ],
)
def test_numbers_read_well(value: float | None, text: str) -> None:
    assert view.number(value) == text


NAMES = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.from_regex(r"[aAx](-[23])?\.(png|jpg)", fullmatch=True),
        st.builds("{}{}.png".format, st.sampled_from("日é🐱x\udcff"), st.integers(0, 2)),
        st.sampled_from(["日" * 300, "x" * 300, "x" * 299 + "y", "e\u0301", "é", "É", "two\nlines"]),
    ),
    max_size=8,
)


@settings(max_examples=40)
@given(NAMES)
def test_no_two_names_share_a_file(names: list[str]) -> None:
    made = view.stems(names)
    assert len({stem.casefold() for stem in made}) == len(names)
    for stem in made:
        assert len(os.fsencode(f"{stem}-contrastive_excitation_backprop-adversarial.png")) < 255
        assert "/" not in stem
        assert stem.isprintable()
        assert stem[0] not in "-."


def test_file_names_are_safe_and_distinct() -> None:
    assert view.stems(["a.png", "A.jpg", "../../etc/x", "..", "b.c.png"]) == [
        "a",
        "A-2",
        "x",
        "photograph",
        "b.c",
    ]
