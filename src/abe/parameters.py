"""What the parameters mean that many entries share; an author who says something else of one is right."""

import re
from collections.abc import Mapping

_ITEM = re.compile(r"\*{0,2}(\w+(?:, \w+)*)(?: \([^)]*\))?:(?: (.*))?$")


def described(text: str) -> dict[str, str]:
    """``name: description`` entries, or ``one, other: description``; continuation lines are indented."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        start = _ITEM.match(line)
        if start:
            names = start[1].split(", ")
            found |= dict.fromkeys(names, start[2] or "")
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


METHOD = """\
baseline: the reference: a name ("zero", "blur", …), a pair ("constant", {"value": 0.5}), a tensor, a value.
base: a method's name, (name, parameters) pair, or value.
background: a distribution: "uniform", "noise", or a tensor of at least two background samples.
quadrature: a name or value from `abe.engines.path.quadrature`.
steps: nodes of the path, or steps of the optimiser, per sample.
tolerance: largest |residual| as a share of the score change, for example 0.02: nodes are then placed where
    they are needed, per sample; None takes those of ``steps``.
max_steps: most nodes per sample that ``tolerance`` may use.
rule: ``"trapezoid"``, or ``"left"`` as printed.
segment_nodes: Gauss nodes inside every step; 0 takes the rule's ends.
alpha: step, in input units before normalisation; by default a share of their range.
classes: these classes instead of random ones.
sigma: noise as a share of the input range.
samples: random draws per sample.
variant: ``"corrected"``, or ``"published"``: what the published code computes; see what differs.
rules: pairs (operation, rule) in front of the built-in ones.
uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` treat it so, and
    the result says it.
merged: run a copy with batch norm merged into convolutions, where it can be made.
epsilon: the stabiliser, in units of z.
stabiliser: added to denominators, away from 0, in units of these; 0 adds nothing.
layer: a module's name (``"layer4"``, ``"relu#2"`` for one of several calls); None takes the last layer with
    places on which the score depends, found by one row more, and a note names it.
relu: keep what supports the decision only.
normalise: scale every map to [0, 1].
upsample: ``"bilinear"`` between the centres of places (align_corners=False), or ``"nearest"``.
heads: ``"mean"``, ``"max"`` or ``"min"`` over heads.
query: the row that is read; None reads the class token, and the mean of all rows without one.
layers: names of modules whose attention alone is taken; all by default.
units: what is removed together: "grid" (nine cells), ("grid", {"n": 4}), "patch", "superpixel", "pixel",
    "element", ("regions", {"regions": …}).
removal: what absent units show: a baseline, a background set (a tensor), or a removal.
evaluations: most rows per sample; None sets no limit of its own.
max_units: up to this many units all coalitions may be evaluated; 16 at most, 65,535 rows.
size: side of the window in positions; None is a fourteenth of the input's shorter side.
stride: step of the window; None is half of its size.
width: σ of the kernel, in cosine distance.
penalty: λ of the ridge.
rate: of the optimiser.
beta: price of information.
fitted: what `abe.fit` returned, the path of its file, or `Untrained` as a control.
patterns: what `abe.engines.backward.patterns.fit_patterns` found, or the path of a file with it.
"""
METRIC = """\
unit: what is changed together: a unit, its name, or a (name, parameters) pair.
baseline: what stands for "absent", in input space: a baseline, its name, a number or a tensor.
feature: the confusion feature's search, as a baseline: `abe.baselines.Confusion` or its name.
step: units per step, or a fraction of them; None for one per cent, at least one unit.
removal: what stands for "absent", in input space.
samples: random draws per sample.
radius: largest change of an element, in input units; by default a share of the range.
patches: along each axis.
groups: number of groups of neighbours in rank.
of: post-processing of the map summed over channels: ``"positive"``, ``"absolute"``, ``"signed"``.
noise: of the imputation, in input units; by default a share of the range.
curve: the number to follow along a run: ``"probability"``, or ``"logit"``, the raw score of a model that has
    one.
order: ``"top_down"`` or ``"bottom_up"`` cascades, or ``"independent"``.
attention: name of the context input (b, t) that says which tokens are attended.
special: name of the context input (b, t) that marks tokens which always stay, or None.
variant: ``"corrected"``, or ``"published"``: what the published code computes; see what differs.
"""
UPDATE = """\
eps: radius in input units; None is 16/255 of the range in L∞, 1 in L2.
alpha: length of a step in input units; None is eps/steps.
steps: how many steps an attack takes.
decay: μ of the momentum.
norm: ``"linf"`` or ``"l2"``.
copies: how many copies the gradient is averaged over.
layer: a module's name, as in ``model.named_modules()``.
variant: ``"corrected"``, or ``"published"``: what the published code computes; see what differs.
"""
SUMMARY = """\
max_units: more units than this are refused; at most 16.
width: of the kernel, in cosine distance.
penalty: λ of the ridge.
"""
ANY = """\
baseline: a baseline, or the name of one.
seed: of the draws.
epsilon: added to the denominator.
digest: of the samples' content.
"""
_EVERYWHERE = described(ANY)
_SHARED: Mapping[str, Mapping[str, str]] = {
    "method": described(METHOD),
    "metric": described(METRIC),
    "update": described(UPDATE),
    "summary": described(SUMMARY),
}


def shared(kind: str, name: str) -> str:
    """What a parameter of that name means in entries of a kind; nothing where each has its own."""
    return _SHARED.get(kind, _EVERYWHERE).get(name) or _EVERYWHERE.get(name, "")
