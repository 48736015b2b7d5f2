"""The page of what is no photograph: escaped, readable by ear, and no wider than the screen."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.report.browser import Page, browser
from tests.report.samples import BAD, every
from tests.report.test_html import Reader
from tests.report.test_page import CONTRAST, CUT, OUTSIDE

from abe.report import view
from abe.report.html import render

ALL = every()


def page(noun: tuple[str, str] = ("text", "texts"), parts: str = "words") -> str:
    """A page with every kind on it, hostile names everywhere."""
    samples = []
    for name, found in ALL.items():
        found.target_names = [BAD] * len(found)
        samples.append(view.sample_view(found, 0, f"{name} {BAD}"))
    return render(
        view.PageView(
            title=BAD,
            asked=[("Question", BAD)],
            table=view.TableView(columns=[], rows=[("ig", BAD, [])]),
            samples=samples,
            settings=[(BAD, BAD)],
            versions=[],
            notes=[BAD],
            noun=noun,
            parts=parts,
        )
    )


@pytest.fixture(scope="module")
def text() -> str:
    return page()


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_names_are_text_and_never_markup(text: str, read: Reader) -> None:
    assert len(read.all("script")) == text.count("<script") == 1
    assert BAD in " ".join(read.text)
    assert not [a for _, attributes in read.tags for a in attributes if a.startswith("on")]


def test_nothing_is_asked_of_any_server(read: Reader) -> None:
    for _, attributes in read.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), attributes


def test_words_have_their_share_and_a_ground_of_its_colour(read: Reader) -> None:
    words = [a for a in read.all("span") if a.get("title") == "−1.00"]
    assert words
    assert all(a["style"] == "background: rgb(20 100 214 / 0.60)" for a in words)
    assert "Full strength at ±1.00, the strongest word." in " ".join(read.text)


def test_numbers_stand_in_tables_for_who_cannot_see(read: Reader) -> None:
    assert len(read.all("caption")) == len(read.all("table"))
    assert all("alt" in image for image in read.all("img"))
    assert all(a.get("aria-label") for a in read.all("svg") if a.get("aria-hidden") != "true")
    shown = " ".join("".join(read.text).split())
    for piece in ("fixed positions", "+0.50", "slice 3", "channel 1, t 20–24", "point 7", "cook"):
        assert piece in shown


def test_no_photograph_is_spoken_of_where_there_is_none(text: str, read: Reader) -> None:
    assert "photograph" not in " ".join(read.text).lower()
    assert 'name="reading"' not in text
    assert 'aria-label="Texts"' in text


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1280])
def test_nothing_is_wider_than_the_page_or_cut_or_pale(
    tab: Page, text: str, width: int, dark: bool, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(text, encoding="utf-8")
    tab.open(file, width=width, dark=dark)
    for opened in (False, True):
        tab.run(f"document.querySelectorAll('details').forEach(d => {{ d.open = {str(opened).lower()}; }})")
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run(OUTSIDE) == []
        assert tab.run(CUT) == []
        assert tab.run(CONTRAST) == []


@pytest.mark.browser
def test_methods_are_chosen_away_and_no_error_is_raised(tab: Page, text: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    probe = "<script>window.failed = []; onerror = m => { failed.push(m); };</script></head>"
    file.write_text(text.replace("</head>", probe, 1), encoding="utf-8")
    tab.open(file, width=1280)
    assert tab.run("failed") == []
    assert tab.run("document.querySelectorAll('.readings figure').length") == len(ALL)
    tab.run("document.querySelector('.readings figure').click()")
    assert not tab.run("document.getElementById('large').open")
