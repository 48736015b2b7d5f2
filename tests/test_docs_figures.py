"""What cards say of measurements is what the recorded studies say, and names the study."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from studies.statistics import Interval, difference

from abe import registry
from abe.registry import Entry, Registry

RESULTS = Path(__file__).parents[1] / "docs" / "results"
KINDS = (
    *(registry.methods, registry.metrics, registry.updates, registry.objectives, registry.baselines),
    *(registry.units, registry.paths, registry.channel_weights, registry.removals, registry.summaries),
)
MEASURED = re.compile(r"\d ?%|\d times|photographs\b|real networks?\b|ΣA\b.*\d|\bwas \d")
"""Signs of a figure that somebody measured, where others are parameters, formulas and shapes."""
STUDY = re.compile(r"study\s+`([\w-]+)`")


def prose(entry: Entry) -> list[str]:
    """Every sentence of an entry that is neither formula nor the meaning of a parameter."""
    card, said = entry.card, entry.documented
    return [said.summary, *said.notes, *card.differs, *card.pitfalls, *card.expected_failures.values()]


def unsourced(text: str) -> bool:
    """Whether a text has a measured figure and no study whose record is kept."""
    named = STUDY.findall(text)
    known = bool(named) and all((RESULTS / f"{name}.json").exists() for name in named)
    return bool(MEASURED.search(text)) and not known


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_a_measured_figure_on_a_card_names_its_study(kind: Registry) -> None:
    assert [(e.name, text) for e in kind.entries() for text in prose(e) if unsourced(text)] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_studies_that_cards_name_are_recorded(kind: Registry) -> None:
    named = {name for e in kind.entries() for text in prose(e) for name in STUDY.findall(text)}
    assert {name for name in named if not (RESULTS / f"{name}.json").exists()} == set()


def test_figures_without_a_study_are_seen() -> None:
    assert unsourced("ΣA was 26.4 times the score change")
    assert unsourced("3–10 % negative entries")
    assert unsourced("Residuals are usual on real networks.")
    assert unsourced("1 to 2 % are negative (study `nowhere`).")
    assert not unsourced("1 to 2 % are negative (study `ordering`).")
    assert not unsourced("Weights sum to 49/50, and the kernel is cut at 1.75 σ.")


def records(study: str) -> dict[str, Any]:
    """Label -> quantity -> values per photograph."""
    return json.loads((RESULTS / f"{study}.json").read_text(encoding="utf-8"))["values"]


def spread(values: list[float]) -> tuple[int, int]:
    """Smallest and largest as whole percents, rounded outwards."""
    return math.floor(100 * min(values)), math.ceil(100 * max(values))


RANGES = [
    ("mfaba", r"(\d+) to (\d+) % with the trapezoid", "ordering", "mfaba", "negative"),
    ("attexplore", r"positive, (\d+) to (\d+) %", "ordering", "attexplore", "positive"),
    ("agi", r"negative, (\d+) to (\d+) %", "orientation", "AGI, 4 random classes", "negative"),
    (
        "integrated_gradients",
        r"(\d+) to (\d+) % of the change",
        "ordering",
        "integrated_gradients",
        "residual",
    ),
]


@pytest.mark.parametrize(("method", "words", "study", "label", "quantity"), RANGES)
def test_ranges_on_cards_are_the_recorded_ones(
    method: str, words: str, study: str, label: str, quantity: str
) -> None:
    (text,) = [t for t in prose(registry.methods.get(method)) if re.search(words, t)]
    found = re.search(words, text)
    assert found
    assert study in STUDY.findall(text)
    kept = records(study)[label]
    values = [1 - v for v in kept["negative"]] if quantity == "positive" else [abs(v) for v in kept[quantity]]
    assert (int(found[1]), int(found[2])) == spread(values)


def against_random(study: str, label: str, quantity: str) -> Interval:
    """The paired difference to a random order, by the study's own rule."""
    found = records(study)
    other = "random" if study == "ordering" else "random order"
    return difference(found[label][quantity], found[other][quantity])


AGI = "as it is: 4 random classes, α .05, trapezoid, logit"
ORDERS = [
    ("big", "deletes worse than a random order", "ordering", "big", "deletion", "above"),
    ("isa", "deletes worse than a random order", "ordering", "isa", "deletion", "above"),
    ("isa", "inserts best of the path methods", "ordering", "isa", "insertion", "above"),
    ("attexplore", "hardly better than a random one", "ordering", "attexplore", "insertion", "undecided"),
    ("laai", "by deletion it is worse", "orientation", "LAAI, Eq. 5", "deletion", "above"),
    ("laai", "GAP does not tell them apart", "orientation", "LAAI, Eq. 5", "gap", "undecided"),
    (
        "agi",
        "near a random one",
        "agi",
        "as it is: 4 random classes, α .05, trapezoid, logit",
        "gap",
        "undecided",
    ),
]


@pytest.mark.parametrize(("method", "words", "study", "label", "quantity", "side"), ORDERS)
def test_what_cards_say_of_orders_is_what_was_recorded(
    method: str, words: str, study: str, label: str, quantity: str, side: str
) -> None:
    (text,) = [t for t in prose(registry.methods.get(method)) if words in t]
    assert study in STUDY.findall(text)
    assert against_random(study, label, quantity).sign == side


def test_what_cards_say_of_sums_and_ranks_is_what_was_recorded() -> None:
    means = {name: sum(v["insertion"]) / len(v["insertion"]) for name, v in records("ordering").items()}
    assert max(means, key=lambda name: means[name]) == "isa"
    assert min(abs(r) for r in records("completeness")["AGI, plain"]["residual"]) > 2
    assert min(abs(r) for r in records("published")["attexplore, published"]["residual"]) > 1000
    laai = records("orientation")["LAAI, Eq. 5"]
    assert max(laai["sum"]) < 0
    assert min(laai["negative"]) > 0.99


def test_every_table_of_the_performance_page_names_command_day_and_rounds() -> None:
    page = (RESULTS.parent / "performance.md").read_text(encoding="utf-8")
    parts = re.split(r"^##+ (.+)$", page, flags=re.MULTILINE)[1:]
    tables = {title: text for title, text in zip(parts[::2], parts[1::2], strict=True) if "\n| " in text}
    del tables["What is measured"]
    assert len(tables) > 8
    for title, text in tables.items():
        before = text.split("\n| ")[0]
        assert re.search(r"`python -m\s+benchmarks [\w-]+|^```pycon", before, flags=re.MULTILINE), title
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", before), title
        assert re.search(r"\brounds?\b", before), title


def test_commands_of_the_performance_page_exist() -> None:
    from benchmarks.__main__ import PARTS

    page = (RESULTS.parent / "performance.md").read_text(encoding="utf-8")
    named = {
        part for parts in re.findall(r"`python -m\s+benchmarks ([\w -]+)", page) for part in parts.split()
    }
    assert named - {"--model"} - {"EfficientNet-Lite0"} <= set(PARTS)
