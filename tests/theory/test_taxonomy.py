"""Cards and the survey: every method has a family of its Table II, and Figure 4's marks where it is named."""

import importlib.util
from pathlib import Path

import pytest

from abe import registry

FILE = Path(__file__).parents[2] / "docs" / "_ext" / "taxonomy.py"
FA, MGI, GT, PI = "feature additive", "modified gradient × input", "game-theoretic", "path integral"
NN, FR, TI = "nonnegative backpropagation", "feature removal", "Taylor interaction"
FIGURE_4 = {
    # row of Figure 4: its methods here, its marks; where Table III says otherwise, the table counts
    "modified gradient": {
        (): ("gradient", "smoothgrad"),
        (NN,): ("deconvolution", "guided_backprop"),
    },
    "gradient × input": {
        (MGI, TI): ("grad_cam", "gradient_x_input"),
        (MGI, PI, TI): ("expected_gradients",),
        (MGI, GT, PI, TI): ("integrated_gradients",),
    },
    "layer-wise backpropagation": {
        (): ("pattern_net", "pattern_attribution"),
        (TI,): ("deepshap", "lrp_alpha_beta", "deeplift_reveal_cancel"),
        (NN,): ("rectgrad", "excitation_backprop"),
        (NN, TI): ("lrp_z_plus", "deep_taylor"),
        (FA, MGI, TI): ("lrp_0", "lrp_epsilon", "deeplift"),
    },
    "perturbation": {
        (FR,): ("sage", "rise"),
        (GT, FR): ("banzhaf",),
        (FR, TI): ("pdiff", "occlusion", "occlusion_patch"),
        (FA, GT, PI, FR, TI): ("shapley",),
    },
    "influential subset": {
        (): ("iba",),
        (FR,): ("meaningful_perturbation", "extremal_perturbation", "rtis"),
    },
    "local surrogate": {(FA, FR): ("lime", "optilime", "s_lime", "baylime")},
}
ROWS = [
    (family, marks, name)
    for family, kinds in FIGURE_4.items()
    for marks, names in kinds.items()
    for name in names
]


@pytest.fixture(scope="module")
def taxonomy():
    """The module that writes the page."""
    spec = importlib.util.spec_from_file_location("taxonomy", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("family", "marks", "name"), ROWS, ids=[name for *_, name in ROWS])
def test_the_marks_of_the_survey(family, marks, name):
    card = registry.methods.cards()[name]
    assert card.family == family
    assert card.reformulations == marks


def test_every_method_has_a_family_and_reformulations_that_the_survey_knows(taxonomy):
    families = {*taxonomy.FAMILIES, *taxonomy.OUTSIDE}
    unknown = [
        entry.name
        for entry in registry.methods.entries()
        if entry.card.family not in families or set(entry.card.reformulations) - set(taxonomy.REFORMULATIONS)
    ]
    assert unknown == []


def test_the_page_has_every_method_once(taxonomy):
    entries = registry.methods.entries()
    text = taxonomy.page(
        entries, lambda e, _: f"<{e.name}>", lambda _: "", lambda *cells: "|".join(["", *cells, ""])
    )
    assert all(text.count(f"<{e.name}>") == 1 for e in entries)
    shapley = next(line for line in text.splitlines() if "<shapley>" in line)
    assert shapley.count("✓") == 5 + len(registry.methods.cards()["shapley"].guarantees)
    assert "scores only" in shapley
