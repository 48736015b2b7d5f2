"""Links between the pages lead somewhere."""

import re
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = re.compile(r"^/?generated/(?:methods|metrics|updates|api|gallery|parts|studies)/")
"""Pages that the build writes."""


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def lost(page: Path) -> list[str]:
    """What a page leads to that is not there."""
    text = re.sub(r"^```(?!\{).*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = []
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]+)?)\)", text):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or WRITTEN.match(name):
            continue
        path = page if not name else DOCS / name[1:] if name.startswith("/") else page.parent / name
        if not path.exists():
            found.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            found += [] if anchor in map(slug, headings) else [target]
    named = re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", text)
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    lines = [line.strip() for tree in trees for line in tree.splitlines()]
    entries = [line for line in lines if re.fullmatch(r"[\w/.-]+", line)]
    pictures = re.findall(r"^```\{image\} (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found += [one for one in pictures if not WRITTEN.match(one) and not (page.parent / one).exists()]
    scripts = [re.search(r"images/sphx_glr_(gallery_\w+)_\d{3}\.png$", one) for one in pictures]
    found += [m[0] for m in scripts if m and not (ROOT / "examples" / f"{m[1]}.py").exists()]
    for name in chain(named, entries):
        base = DOCS if name.startswith("/") else page.parent
        if not WRITTEN.match(name) and not (base / f"{name.lstrip('/')}.md").exists():
            found.append(name)
    return found


PAGES = [ROOT / "README.md", *DOCS.glob("*.md"), *(DOCS / "decisions").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_resolve(page: Path) -> None:
    assert lost(page) == []


def test_lost_links_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One thing\n[a](page.md#one-thing) [b](page.md#other) [c](none.md) {doc}`gone`\n")
    assert lost(page) == ["page.md#other", "none.md", "gone"]
