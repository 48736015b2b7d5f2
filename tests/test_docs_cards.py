"""Cards, docstrings and the bibliography agree."""

import inspect
import re
from pathlib import Path

import pytest

from abe import registry
from abe.metrics.evaluation.base import as_metric
from abe.registry import Entry

ROOT = Path(__file__).parents[1]
KEYS = set(
    re.findall(r"^@\w+\{([^,]+),", (ROOT / "docs" / "references.bib").read_text("utf-8"), flags=re.MULTILINE)
)
KINDS = (
    registry.methods,
    registry.metrics,
    registry.objectives,
    registry.baselines,
    registry.units,
    registry.paths,
    registry.updates,
    registry.removals,
    registry.summaries,
)
ENTRIES = [pytest.param(e, id=f"{kind.kind}-{e.name}") for kind in KINDS for e in kind.entries()]


@pytest.mark.parametrize("entry", ENTRIES)
def test_sources_are_in_the_bibliography(entry: Entry) -> None:
    for item in filter(None, entry.card.source.split(";")):
        key = re.match(r"\s*([a-z][a-z0-9-]*)", item)
        assert key, f"{item!r} does not start with a key of references.bib"
        assert key[1] in KEYS


@pytest.mark.parametrize("entry", ENTRIES)
def test_docstrings_explain_every_parameter(entry: Entry) -> None:
    text = inspect.getdoc(entry.factory) or ""
    section = re.search(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)*)", text, flags=re.MULTILINE)
    described = (
        set(re.findall(r"^ {4}(\w+)(?: \(.*?\))?:", section[1], flags=re.MULTILINE)) if section else set()
    )
    assert set(entry.parameters()) - described == set()


@pytest.mark.parametrize("entry", ENTRIES)
def test_deviations_stand_in_card_and_docstring(entry: Entry) -> None:
    said = "Differs from the paper:" in (inspect.getdoc(entry.factory) or "")
    assert said == bool(entry.card.differs)


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in registry.metrics.entries()])
def test_metric_pages_have_all_they_need(entry: Entry) -> None:
    card = entry.card
    assert card.formula
    assert card.direction
    assert card.range
    assert card.pitfalls, "say when not to believe it"
    assert card.passes or "Cost:" in (inspect.getdoc(entry.factory) or "")
    given = dict(card.example) if entry.required() else {}
    assert as_metric((entry.name, given)).processing
