"""What help, the command line and the pages say of an entry is one text."""

import doctest
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.runner import invoke

from abe import registry
from abe.documented import cost, documented, read
from abe.engines.path.quadrature import quadratures
from abe.parameters import described, shared
from abe.registry import Entry, Registry
from abe.types import Card, Passes

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "_ext"))
import cards as pages

SHOWN = ("Formula", "Differs from the paper", "Source", "Cost")
PLACES: dict[str, tuple[str, Callable[[Entry], str]]] = {
    "method": ("methods", pages.method_page),
    "metric": ("metrics", pages.metric_page),
    "update": ("attacks", pages.update_page),
}
ENTRIES = [
    pytest.param(entry, id=f"{kind.kind}-{entry.name}")
    for kind in (registry.methods, registry.metrics, registry.updates)
    for entry in kind.entries()
]
KINDS = (
    *(registry.methods, registry.metrics, registry.updates, registry.objectives, registry.baselines),
    *(registry.units, registry.paths, registry.channel_weights, registry.removals, registry.summaries),
    quadratures,
)
CARD = Card(name="probe", title="Probe", source="zhu2025abe", formula="A = x", passes=Passes("2 * b", "0"))


def words(text: str) -> str:
    """Text without what layout and markup add: line ends, bullets, code marks, escapes, citations."""
    text = re.sub(r"\{cite:t\}|\\(?=[*_<\[\]$\\{}])|`|^ *- ", "", text, flags=re.MULTILINE)
    return " ".join(text.split())


def on_screen(entry: Entry) -> str:
    """``abe methods NAME`` as it is printed."""
    said = invoke(PLACES[entry.kind][0], entry.name)
    assert said.exit_code == 0, said.output
    return said.output


def unsaid(text: str, entry: Entry) -> list[str]:
    """What a text leaves out of the card's formula, differences, source and cost."""
    card, said = entry.card, entry.documented
    wanted = [
        card.formula,
        *card.differs,
        card.source,
        cost(card.passes) or " ".join(said.sections.get("Cost", ())),
    ]
    return [item for item in wanted if words(item) not in words(text)]


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_screen_and_page_say_the_same(entry: Entry) -> None:
    texts = {
        "help": inspect.getdoc(entry.factory) or "",
        "screen": on_screen(entry),
        "page": PLACES[entry.kind][1](entry),
    }
    assert not any(unsaid(text, entry) for text in texts.values()), texts


def test_a_text_that_says_something_else_is_found() -> None:
    entry = registry.methods.get("guided_grad_cam")
    page = inspect.getdoc(entry.factory) or ""
    for section in SHOWN:
        (said, *_) = entry.documented.sections[section]
        assert unsaid(words(page).replace(words(said), "None by default"), entry)
    other = replace(entry, own=replace(entry.card, formula=f"{entry.card.formula} + 1"))
    assert unsaid(page, other) == [other.card.formula]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_what_was_composed_reads_the_same_again(kind: Registry) -> None:
    for entry in kind.entries():
        assert entry.documented.text() == inspect.getdoc(entry.factory), entry.name
        assert entry.card.summary == entry.documented.summary, entry.name


def test_every_example_is_still_a_doctest() -> None:
    for entry in registry.methods.entries():
        (found,) = doctest.DocTestFinder(recurse=False).find(entry.factory, globs={})
        assert found.examples, entry.name


def probe(*, steps: int = 5, own: int = 1, baseline: Any = None) -> int:
    """What is measured, in one
    sentence.

    A paragraph more.

    Args:
        own: of its own, over
            two lines.
        baseline: not what others say.

    Cost: nothing at all.

    Example:
        >>> 1 + 1
        2
    """
    return steps + own


def test_a_docstring_is_the_authors_words_and_the_card() -> None:
    kind = Registry("method")
    before = probe.__doc__
    try:
        assert kind.register(CARD, aliases=("sonde",))(probe) is probe
        text = probe.__doc__ or ""
    finally:
        probe.__doc__ = before
    assert kind._entries["probe"].card.summary == "What is measured, in one sentence."
    assert text.split("\n\n") == [
        "What is measured, in one sentence.",
        "A paragraph more.",
        "Formula:\n    A = x",
        "Composition:\n    `int`.",
        f"Args:\n    steps: {shared('method', 'steps')}\n    own: of its own, over two lines.\n"
        "    baseline: not what others say.",
        "Shape:\n    (b, *f) in and out.",
        "Guarantees:\n    none of the axioms.",
        "Cost:\n    2 · b forward and no backward rows for b samples.",
        "Source:\n    zhu2025abe",
        "Example:\n    >>> 1 + 1\n    2",
    ]


def test_a_card_without_formulas_leaves_formula_and_cost_to_the_author() -> None:
    @dataclass
    class Value:
        """A value.

        Formula: A = x²

        Cost: one row.
        """

        alpha: float = 0.1

    kind = Registry("path")
    kind.register(replace(CARD, formula="", passes=None))(Value)
    (entry,) = kind._entries.values()
    assert entry.card.formula == "A = x²"
    assert entry.documented.sections == {
        "Formula": ("A = x²",),
        "Cost": ("one row.",),
        "Source": ("zhu2025abe",),
    }
    assert entry.documented.missing(entry.parameters(), example=True) == ["Args: alpha", "Example"]


def test_a_dataclass_without_a_docstring_has_the_cards_sentence() -> None:
    @dataclass
    class Value:
        alpha: float = 0.1

    assert (Value.__doc__ or "").startswith("Value(")
    assert documented("path", Value, replace(CARD, summary="A value.")).summary == "A value."
    assert documented("path", Value, CARD).missing(()) == ["one sentence that opens it"]


def test_a_part_of_a_method_has_its_card() -> None:
    weights, method = registry.channel_weights.get("mean_gradient"), registry.methods.get("grad_cam")
    assert registry.channel_weights.get("grad_cam") is weights
    assert (weights.card.source, weights.card.differs) == (method.card.source, method.card.differs)
    assert weights.card.formula == "w_k = mean_ij ∂s/∂A_kij"
    assert "the method `grad_cam`" in (inspect.getdoc(weights.factory) or "")
    owen = registry.summaries.get("owen").card
    assert owen.formula == registry.methods.get("owen").card.formula


@pytest.mark.parametrize(
    ("passes", "sentence"),
    [
        (None, ""),
        (Passes("adaptive", "0"), ""),
        (Passes("adaptive", "0", words="2^u rows."), "2^u rows."),
        (Passes("b * (steps + 2)", "0"), "b · (steps + 2) forward and no backward rows for b samples."),
        (Passes("b", "b", at_most=True), "at most b forward and b backward rows for b samples."),
    ],
)
def test_a_cost_is_a_sentence(passes: Passes | None, sentence: str) -> None:
    assert cost(passes) == sentence


def test_descriptions_are_read_by_name() -> None:
    text = "a, b: both of\n    them.\nc: one: two.\n**settings: more.\nd (int): typed."
    both = {"a": "both of them.", "b": "both of them."}
    assert described(text) == {**both, "c": "one: two.", "settings": "more.", "d": "typed."}


def test_sections_are_read_by_title() -> None:
    opening, notes, sections = read("One\nsentence.\n\nMore.\n\nShape: (b,).\n\nArgs:\n    a: b.\n")
    assert (opening, notes) == ("One sentence.", ("More.",))
    assert sections == {"Shape": "(b,).", "Args": "a: b."}
    assert read("") == ("", (), {})
