"""The page: self-contained, escaped, and alive in a real browser."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from tests.report.common import LABELS, NAMES, hostile

from abe.metrics import Comparison
from abe.report.html import page, write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Checks that tags nest, and collects them with their attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return hostile()


@pytest.fixture(scope="module")
def text(comparison: Comparison) -> str:
    return page(comparison)


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_nothing_is_asked_of_any_server(text: str, read: Reader) -> None:
    for _, attributes in read.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), attributes
    assert not re.search(r"@import|https?://(?!www\.w3\.org/)|//[a-z]+\.[a-z]+/", text)
    assert all(re.match(r"['\"]?data:image/", url) for url in re.findall(r"url\(([^)]{0,12})", text) if url)


def test_names_and_labels_are_text_and_never_markup(text: str, read: Reader) -> None:
    assert len(read.all("script")) == text.count("<script") == 1
    shown = " ".join(read.text)
    for hostile_text in (*NAMES, LABELS[0], LABELS[1]):
        assert hostile_text in shown


def test_the_table_marks_directions_and_the_best(read: Reader, comparison: Comparison) -> None:
    shown = " ".join("".join(read.text).split())
    assert "INS↑, higher is better" in shown
    assert "DEL↓, lower is better" in shown
    told = Reader(page(replace(comparison, tests=[])))
    best = max(comparison.scores.values(), key=lambda scores: scores["insertion"].mean)
    assert f"{best['insertion'].mean:.3f} (best)" in " ".join("".join(told.text).split())
    assert len([a for a in told.all("td") if "best" in a.get("class", "")]) >= len(comparison.metrics)


def test_nobody_wins_where_no_test_could_tell(read: Reader, comparison: Comparison) -> None:
    assert {test.verdict for test in comparison.tests} == {"too few samples"}
    shown = " ".join("".join(read.text).split())
    assert "No winner. Too few photographs to tell methods apart: 2, where" in shown
    assert "(best)" not in shown
    assert not [a for a in read.all("td") if "best" in a.get("class", "")]


def test_every_column_is_explained_in_text_and_has_one_number_of_digits(
    read: Reader, comparison: Comparison
) -> None:
    shown = " ".join("".join(read.text).split())
    for metric in comparison.metrics:
        assert metric.card is not None
        assert metric.card.summary.rstrip(".") in shown
    assert not re.search(r"\de−\d", shown)


def test_it_can_be_read_without_seeing(read: Reader) -> None:
    images = read.all("img")
    assert len(images) == 2 + 2 * (1 + 3 * 3)  # links, and per photograph itself and three readings of three
    assert all("alt" in image for image in images)
    assert len([image for image in images if image["alt"]]) == 2 * (1 + 3 * 3)
    assert len(read.all("caption")) == len(read.all("table"))
    assert all(a.get("aria-label") for a in read.all("svg") if a.get("aria-hidden") != "true")
    assert read.all("html")[0]["lang"] == "en"


def test_settings_versions_and_notes_are_on_the_page(comparison: Comparison, read: Reader) -> None:
    shown = " ".join("".join(read.text).split())
    for piece in ("integrated_gradients(", "steps=4", "Seed", "torch", "256 of 1024 units"):
        assert piece in shown
    first = next(iter(comparison.explanations.values()))
    for version in first.versions.values():
        assert version in shown


def test_failures_are_notes(comparison: Comparison) -> None:
    from abe.metrics import Failure

    comparison.failures["guided_ig"] = Failure("ABE-PATH", "it <i>broke</i>")
    try:
        assert "Guided Integrated Gradients did not finish: it <i>broke</i>" in " ".join(
            Reader(page(comparison)).text
        )
    finally:
        comparison.failures.clear()


def _browse(*words: str) -> str:
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)])
def test_it_renders_in_a_browser(comparison: Comparison, tmp_path: Path, scheme: str, dark: bool) -> None:
    path = write_page(comparison, tmp_path / "page.html")
    picture = tmp_path / "page.png"
    setting = f"--blink-settings=preferredColorScheme={scheme}"
    _browse(setting, "--window-size=1280,1800", f"--screenshot={picture}", path.as_uri())
    with Image.open(picture) as image:
        assert image.size == (1280, 1800)
        assert (image.convert("L").getpixel((5, 5)) < 60) == dark
        assert len(image.convert("RGB").getcolors(1 << 22) or []) > 2000


PROBE = """<script>
const click = n => document.querySelectorAll('#table thead button')[n].click();
const cells = n => Array.from(document.querySelectorAll('#table tbody tr')).map(r => r.cells[n].dataset.v);
const found = {};
click(0); found.methods = cells(1);
click(2); found.first = cells(3).map(parseFloat); click(2); found.second = cells(3).map(parseFloat);
found.sorted = document.querySelector('th[aria-sort=ascending]').textContent;
document.querySelector('input[value=exact]').click();
const seen = s => getComputedStyle(document.querySelector('.tile ' + s)).display !== 'none';
found.exact = ['.exact-only', '.signed-only', '.where-only'].map(seen);
document.querySelector('input[value=where]').click();
found.where = [seen('.where-only'), seen('.signed-only')];
const stops = 'a[href], button, input:not([name=reading]), summary, [tabindex="0"]';
found.stops = Array.from(document.querySelectorAll(stops)).filter(e =>
  e.tabIndex >= 0 && !e.closest('dialog') && !e.closest('details:not([open]) > :not(summary)')).length + 1;
document.querySelector('.maps figure').click();
found.enlarged = document.getElementById('large').open && !!document.querySelector('#large .tile img');
document.getElementById('large').close();
const box = document.querySelector('input[name=method]'); box.click();
found.left = Array.from(document.querySelectorAll('.maps figure')).filter(f => !f.hidden).length;
found.wide = document.documentElement.scrollWidth <= window.innerWidth;
found.broken = Array.from(document.images).filter(i => i.complete && !i.naturalWidth).length;
document.title = JSON.stringify(found);
</script></body>"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 500, 768, 1280])
def test_headings_sort_and_readings_switch(text: str, tmp_path: Path, width: int) -> None:
    import html
    import json

    probed = tmp_path / "probe.html"
    probed.write_text(text.replace("</body>", PROBE), encoding="utf-8")
    dom = _browse(f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom", probed.as_uri())
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None
    found = json.loads(html.unescape(title[1]))
    assert found["methods"] == sorted(found["methods"])
    assert found["first"] == sorted(found["first"], reverse=True)  # higher is better, so best first
    assert found["second"] == sorted(found["first"])
    assert found["sorted"].startswith("INS")
    assert found["exact"] == [True, False, False]
    assert found["where"] == [True, False]
    assert found["stops"] <= 24  # of two photographs
    assert found["enlarged"]
    assert found["left"] == 2 * 2  # of three methods one is chosen away
    assert found["wide"], "the page scrolls sideways on a narrow screen"
    assert found["broken"] == 0
