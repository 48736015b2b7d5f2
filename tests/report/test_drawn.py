"""Pictures of what is no photograph, by the texts on them and where these lie."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text
from PIL import Image
from tests.report.samples import BAD, every, made, rows, series, text

from abe.report import bars, view
from abe.report.blocks import ROOM, SIZE, laid, width_of
from abe.report.canvas import families
from abe.report.drawn import draw
from abe.report.figures import plot_explanation, plot_photo

ALL = every()
LONG = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenhalterung" * 4


def texts(figure: Any) -> list[str]:
    found = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text()]
    return [one.get_text() for one in found]


def boxes(figure: Any) -> list[tuple[str, Any]]:
    """What is written, but for the numbers along axes, with the pixels it takes."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    ticks = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.get_ticklabels()
    }
    shown = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip()]
    return [(one.get_text(), one.get_window_extent(renderer)) for one in shown if id(one) not in ticks]


@pytest.mark.parametrize("case", ALL)
def test_nothing_overlaps_or_leaves_the_page(case: str) -> None:
    figure = plot_explanation(ALL[case])
    placed = boxes(figure)
    for _, box in placed:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.height
    for number, (one, a) in enumerate(placed):
        for other, b in placed[:number]:
            across = min(a.x1, b.x1) - max(a.x0, b.x0)
            down = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert across < 2 or down < 4, (one, other)


def test_a_text_is_drawn_word_by_word_with_its_scale() -> None:
    shown = texts(plot_explanation(text(fixed=0.5)))
    assert {"a", "charming", "journey", BAD} <= set(shown)
    assert "orange supports, blue opposes; full strength at ±1.00, the strongest word" in shown
    said = "logit 1.52 = 0.40 at the reference + 1.12; the map sums to that change; fixed positions +0.50"
    assert said in shown


def test_a_row_is_a_waterfall_from_the_reference_to_the_score() -> None:
    shown = texts(plot_explanation(rows()))
    assert {"at the reference", "0.40", "column 3 = cook", "−1.00", "logit of the sample", "−0.10"} <= set(
        shown
    )
    bars = texts(plot_explanation(rows(start=None)))
    assert "at the reference" not in bars
    assert {"column 3 = cook", "−1.00"} <= set(bars)


def test_what_is_missing_and_fixed_is_a_step_of_the_waterfall() -> None:
    found = rows()
    assert found.delta is not None
    found.delta = found.delta + 0.25
    found.labels[0, 0] = -1  # type: ignore[index]
    found.unit_names = [["", *found.unit_names[0][1:]]]
    shown = texts(plot_explanation(found))
    assert {"missing", "+0.25", "fixed positions"} <= set(shown)


def test_many_columns_are_summed_and_many_rows_are_a_swarm() -> None:
    assert "29 others" in texts(plot_explanation(rows(columns=40)))
    swarm = texts(plot_explanation(rows(15)))
    said = "Integrated Gradients, 15 rows; every dot is a row, further right supports the decision"
    assert said in swarm
    assert "share of the logit" in swarm
    assert "at the reference" not in swarm


def test_rows_of_other_columns_are_no_swarm() -> None:
    found = rows(12)
    found.unit_names = [[*names[:-1], f"other {i}"] for i, names in enumerate(found.unit_names)]
    assert texts(plot_explanation(found)).count("at the reference") == 12


def test_lines_name_their_channels_and_say_which_are_left_out() -> None:
    assert {"channel 0", "channel 1"} <= set(texts(plot_explanation(series())))
    assert "8 of 11 channels, those with the largest share" in texts(plot_explanation(series(11)))


def test_slices_points_and_several_inputs_are_labelled() -> None:
    volume = texts(plot_explanation(ALL["volume"]))
    assert "slice 3: 90 %" in volume
    assert any(one.startswith("6 of 9 slices; the others hold") for one in volume)
    assert {"coordinate 0", "coordinate 2"} <= set(texts(plot_explanation(ALL["points"])))
    assert "coordinate 2" not in texts(plot_explanation(ALL["flat points"]))
    several = texts(plot_explanation(ALL["several"]))
    assert any(one.startswith("image: ") and one.endswith(" in all") for one in several)
    assert any(one.startswith(f"{BAD}: ") for one in several)


def test_lines_of_words_wrap_inside_the_room() -> None:
    lines = laid([(LONG, 0), (" ", -1), ("日本語" * 40, 1), (" and so on " * 30, -1)], ROOM)
    assert len(lines) > 4
    assert all(at + width <= ROOM + 1e-6 for line in lines for at, width, *_ in line)
    together = "".join(part for line in lines for _, _, part, _ in line)
    assert together.replace(" ", "") == (LONG + "日本語" * 40 + "andsoon" * 30)


def test_widths_are_those_that_are_drawn() -> None:
    figure = plot_explanation(text())
    for word, box in boxes(figure):
        if word in ("charming", "journey"):
            assert box.width / figure.dpi == pytest.approx(width_of(word, 10.0), abs=0.03)


def test_dollars_are_dollars_and_every_script_is_quiet(tmp_path: Path) -> None:
    names = ["$5_x$", "日本語", "\\frac{", "a\u202eb"]
    found = text(unit_names=[names], shown=[" ".join(names)], target_names=["$y$ 猫"], names=["$a$"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot_explanation(found, path=tmp_path / "text.png")
    assert "$5_x$" in texts(figure)
    with Image.open(tmp_path / "text.png") as image:
        assert image.width == 1300


def test_a_comparison_shows_every_method_on_the_same_words() -> None:
    one = view.sample_view(text(), 0, "first")
    curve = view.CurveView(
        name="insertion", title="INS", value="probability", x=[0, 1], lines=[("A", [0, 1]), ("B", [1, 0])]
    )
    both = view.SampleView(
        name="first", target="yes", top=one.top, maps=[*one.maps, *one.maps], curves=[curve, curve]
    )
    figure = plot_photo(both)
    shown = texts(figure)
    assert shown.count("charming") == 2
    assert {"first, explained: yes", "INS", "A", "B", "share changed"} <= set(shown)
    assert sum("Integrated Gradients" in one for one in shown) == 2


def test_a_regression_has_no_answers_beside_it() -> None:
    assert "what the model answers" not in texts(plot_explanation(rows(top=[[]])))


def test_a_zero_map_and_odd_numbers_are_drawn() -> None:
    import torch

    for values in (
        torch.zeros(1, 3),
        torch.tensor([[1e-30, -1e-30, 0.0]]),
        torch.tensor([[1e30, 0.0, -1.0]]),
    ):
        figure = draw([view.sample_view(made(values, torch.ones(1, 3), "tabular"), 0, "")])
        figure.canvas.draw()  # type: ignore[attr-defined]


def test_names_that_differ_at_their_ends_stay_apart_beside_their_values() -> None:
    long = "a rather long name of a measurement that nobody would type "
    names = [bars._cell(f"{long}{n}", "1.475", 2.6) for n in range(20)]
    assert len(set(names)) == 20
    assert all(name.endswith(" = 1.475") and "…" in name for name in names)
    assert all(width_of(name, bars.SMALL) <= 2.6 - 0.15 for name in names)
    assert width_of(bars._cell("age", "x" * 400, 2.6), bars.SMALL) <= 2.6


def test_letters_of_every_script_are_measured_as_they_are_drawn() -> None:
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    known = FontProperties(family=families(), size=SIZE)
    for word in ("charming", "映画はとても良い", "🎬🎬", "שלום"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn, *_ = RendererAgg(10, 10, 72).get_text_width_height_descent(word, known, False)
        assert width_of(word, SIZE) * 72 == pytest.approx(drawn, rel=0.05, abs=1)
