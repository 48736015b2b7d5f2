"""The survey's families and reformulations as tables of the registered methods, written from their cards."""

from collections.abc import Iterable, Mapping
from typing import Any

from abe.registry import Entry
from abe.types import Axiom, Card

FAMILIES = {
    "modified gradient": "a_i = ∂ᴹs/∂x_i, the gradient with another rule for some operations (Eq. 1)",
    "gradient × input": "a_i = E[∂s/∂x_i] (x_i − b_i), the mean over a point, a path or a background (Eq. 2)",
    "layer-wise backpropagation": "a = Π_l M⁽ˡ⁾ y, a matrix per layer hands relevance down (Eq. 3)",
    "perturbation": "a_i = Σ_S w_S (F(x_{S∪i}) − F(x_S)), scores of inputs with parts removed (Eq. 4)",
    "influential subset": "S* = argmin s(x without S) + λ₁|S| + λ₂R(S), a mask that is optimised (Eq. 5)",
    "local surrogate": "a simpler model fitted to scores around the input (Eq. 6)",
    "attention": "an aggregate of the attention weights (Eq. 8)",
}
OUTSIDE = {
    "outside the survey": "Methods that no formulation of the survey describes.",
    "wrapper": "Methods that run others; what holds for the inner method holds for them.",
}
REFORMULATIONS = {
    "feature additive": "FA",
    "modified gradient × input": "MGI",
    "game-theoretic": "GT",
    "path integral": "PI",
    "nonnegative backpropagation": "NN",
    "feature removal": "FR",
    "Taylor interaction": "TI",
}
AXIOMS: Mapping[Axiom, str] = {
    "completeness": "C",
    "linearity": "L",
    "dummy": "D",
    "symmetry": "S",
    "implementation_invariance": "I",
    "sensitivity": "Se",
    "additivity": "A",
}
INFORMATION = {
    "gradient": "gradients",
    "layer": "a layer",
    "attention": "attention weights",
    "cross_attention": "cross-attention weights",
    "two towers": "two towers",
    "baseline": "a reference",
    "optimisation": "an optimisation per sample",
    "training": "training data",
}


def page(entries: Iterable[Entry], link: Any, passes: Any, row: Any) -> str:
    """One section per family: its formulation, and its methods with all that their cards claim.

    Args:
        entries: the registered methods.
        link: writes an entry's title, leading to its page.
        passes: writes what a card says of the cost.
        row: writes a row of a table.
    """
    every = list(entries)
    parts = [
        "Reformulations: "
        + ", ".join(f"**{short}** {name}" for name, short in REFORMULATIONS.items())
        + ".\n"
        "Guarantees: " + ", ".join(f"**{a}** {n.replace('_', ' ')}" for n, a in AXIOMS.items()) + "."
    ]
    for family, formulation in {**FAMILIES, **OUTSIDE}.items():
        members = [e for e in every if e.card.family == family]
        if members:
            parts.append(f"## {family.capitalize()}\n\n{formulation}\n")
            parts.append(table(members, link, passes, row))
    return "\n\n".join(parts) + "\n"


def table(members: list[Entry], link: Any, passes: Any, row: Any) -> str:
    """The methods of one family, a tick per reformulation and guarantee."""
    marks = [*REFORMULATIONS.values(), *AXIOMS.values()]
    head = ["method", "uses", *marks, "rows of the model"]
    lines = [row(*head), "| --- | --- |" + " :-: |" * len(marks) + " --- |"]
    for entry in members:
        card = entry.card
        ticks = [
            "✓" if name in held else ""
            for held, names in ((card.reformulations, REFORMULATIONS), (card.guarantees, AXIOMS))
            for name in names
        ]
        lines.append(row(link(entry, "methods"), information(card), *ticks, passes(card) or "see its page"))
    return "\n".join(lines)


def information(card: Card) -> str:
    """What a method reads besides scores."""
    found = [INFORMATION[need] for need in card.needs if need in INFORMATION]
    return ", ".join(dict.fromkeys(found)) or "scores only"
