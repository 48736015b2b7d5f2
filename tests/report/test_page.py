"""The page as people have it: on any screen, in light and dark, with keys alone, as large as the demo's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.report.browser import Page, browser
from tests.report.common import large

from abe.metrics import Comparison
from abe.report.html import write_page

pytestmark = pytest.mark.browser
TAB, ENTER, RIGHT = ("Tab", 9), ("Enter", 13), ("ArrowRight", 39)
STOPS = 40
"""Most stops of the tab key on a page as large as the demo's."""
OUTSIDE = """Array.from(document.body.querySelectorAll("*")).filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width || e.closest(".scroll, .skip, .hidden, details:not([open]) > :not(summary)")) return false;
  return box.right > innerWidth + 0.5 || box.left < -0.5;
}).map(e => e.tagName + "." + e.className + " " + e.textContent.slice(0, 40))"""
"""Elements that reach beyond the page, but for what is scrolled in a box of its own or meant for the ear."""
CUT = """Array.from(document.body.querySelectorAll("*")).filter(e =>
  !e.closest(".hidden, .skip") && e.scrollWidth > e.clientWidth + 1 && e.clientWidth
  && getComputedStyle(e).overflowX !== "visible" && !e.matches(".scroll")
).map(e => e.tagName + "." + e.className)"""
"""Elements whose text is cut, but for boxes that scroll."""
CONTRAST = """(() => {
  const parts = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = rgb => rgb.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const found = parts(getComputedStyle(e).backgroundColor);
      if (getComputedStyle(e).backgroundColor.startsWith("rgb") && (found[3] === undefined || found[3] > 0.9))
        return found;
    }
    return [255, 255, 255];
  };
  return Array.from(document.body.querySelectorAll("*")).filter(e =>
    e.checkVisibility() && !e.closest("svg, .hidden, .skip, dialog") &&
    Array.from(e.childNodes).some(n => n.nodeType === 3 && n.textContent.trim())
  ).map(e => {
    const [a, b] = [light(parts(getComputedStyle(e).color)), light(ground(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName + "." + e.className];
  }).filter(([ratio]) => ratio < 4.5);
})()"""
"""Texts whose contrast is below what WCAG asks of small ones."""


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return large()


@pytest.fixture(scope="module")
def file(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(comparison, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 400, 500, 768, 1280])
def test_nothing_is_wider_than_the_page_or_cut_or_pale(
    page: Page, file: Path, width: int, dark: bool, tmp_path: Path
) -> None:
    page.open(file, width=width, dark=dark)
    assert page.run("innerWidth") == width
    for opened in (False, True):  # what folds is looked at open, too
        page.run(f"document.querySelectorAll('details').forEach(d => {{ d.open = {str(opened).lower()}; }})")
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run(OUTSIDE) == []
        assert page.run(CUT) == []
        assert page.run(CONTRAST) == []
    page.picture(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (width, 900)
        assert (image.convert("L").getpixel((2, 2)) < 60) == dark


def test_the_tab_key_stops_where_there_is_something_to_do(page: Page, file: Path) -> None:
    page.open(file, width=1280)
    name = "(e => e === document.body ? '' : e.tagName + ' ' + e.textContent.trim().slice(0, 30))"
    seen = []
    for _ in range(STOPS + 10):
        page.press(*TAB)
        seen.append(page.run(f"{name}(document.activeElement)"))
        if not seen[-1] or (len(seen) > 1 and seen[-1] == seen[0]):
            break
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none", seen[-1]
    else:
        pytest.fail(f"more than {STOPS} stops")
    stops = len(seen) - 1
    assert 20 < stops <= STOPS, seen
    assert sum(stop.startswith("FIGURE") for stop in seen) == 4  # one for the maps of each photograph


def test_maps_are_reached_and_enlarged_by_keys(page: Page, file: Path) -> None:
    page.open(file, width=1280)
    page.run("document.querySelector('.choose').open = true")
    page.run("document.querySelector('input[name=method]').click()")  # the first of the row is chosen away
    reachable = "document.querySelectorAll('.maps figure[tabindex=\"0\"]:not([hidden])').length"
    assert page.run(reachable) == 4
    page.run("document.querySelector('.maps figure[tabindex=\"0\"]').focus()")
    before = page.run("document.activeElement.dataset.method")
    page.press(*RIGHT)
    assert page.run("document.activeElement.dataset.method") != before
    page.press(*ENTER)
    assert page.run("document.getElementById('large').open")
    page.press("Escape", 27)
    assert not page.run("document.getElementById('large').open")


def test_one_of_two_classes_of_one_name_is_marked(page: Page, file: Path, comparison: Comparison) -> None:
    page.open(file, width=1280)
    marked = page.run(
        "Array.from(document.querySelectorAll('.top')).map(t => t.querySelectorAll('.chosen').length)"
    )
    assert marked == [1, 1, 1, 1]
    names = page.run("Array.from(document.querySelectorAll('.top th[scope=row]')).map(e => e.textContent)")
    assert {"missile (0)", "missile (2)"} < set(names)
