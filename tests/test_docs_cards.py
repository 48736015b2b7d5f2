"""Cards, docstrings and the bibliography agree."""

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
    registry.channel_weights,
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
def test_authors_write_a_sentence_and_what_parameters_mean(entry: Entry) -> None:
    assert entry.documented.missing(entry.parameters(), example=entry.kind == "method") == []


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in registry.metrics.entries()])
def test_metric_pages_have_all_they_need(entry: Entry) -> None:
    card = entry.card
    assert card.formula
    assert card.direction
    assert card.range
    assert card.pitfalls, "say when not to believe it"
    assert entry.documented.sections["Cost"] if card.passes is None else entry.documented
    given = dict(card.example) if entry.required() else {}
    assert as_metric((entry.name, given)).processing
