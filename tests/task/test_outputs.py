"""Outputs of every kind against the same model with two logits, and the names of their classes."""

from collections.abc import Callable, Iterator

import pytest
import torch
from jaxtyping import config
from tests.ids import shown
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code
from abe.task.outputs import class_names

X = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(4))
W = 0.4 * torch.randn(1, 108, generator=torch.Generator().manual_seed(2))
Z = ((X - 0.5).flatten(1) @ W.T)[:, 0]
P = torch.sigmoid(Z)
MAPS = W.view(1, 3, 6, 6) * X
LABELS = ["no", "yes"]
HOW = {"ids": [0, 1, 2], "progress": False}


class Net(nn.Module):
    """A linear logit z, and what a model makes of it."""

    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.w, self.last = nn.Parameter(W.clone()), last
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.last((x - 0.5).flatten(1) @ self.w.T)


def two(z: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(z), z], 1)


KINDS = {
    "sigmoid": (lambda z: z, two, "logits"),
    "probabilities": (torch.sigmoid, lambda z: two(z).softmax(1), "probabilities"),
}
"""What one output is -> what the model ends in, what its twin with two outputs does, and what these are."""
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
SLOW = pytest.mark.slow


def single(kind: str) -> abe.Task:
    return abe.image_task(Net(KINDS[kind][0]), output_kind=kind, labels=LABELS)


def twin(kind: str) -> abe.Task:
    _, last, other = KINDS[kind]
    return abe.image_task(Net(last), output_kind=other, labels=LABELS)


@EVERY_KIND
@pytest.mark.parametrize("target", [0, 1, None], ids=shown)
@pytest.mark.parametrize(
    "objective",
    [
        "probability",
        "log_probability",
        "loss",
        "margin",
        "label_agnostic",
        "entropy",
        ("margin", {"a": 1, "b": 0}),
    ],
    ids=shown,
)
def test_objectives(kind, target, objective):
    one, other = (
        abe.explain(task, X, "gradient", objective=objective, target=target, **HOW)
        for task in (single(kind), twin(kind))
    )
    assert one.target_names == other.target_names
    torch.testing.assert_close(one.score, other.score, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.attribution, other.attribution, rtol=1e-4, atol=1e-6)
    assert [dict(row) for row in one.top] == [pytest.approx(dict(row), abs=1e-6) for row in other.top]


def test_the_logit_counts_from_the_other_class():
    for target, sign in ((1, 1.0), ("yes", 1.0), (0, -1.0), ("no", -1.0)):
        found = abe.explain(single("sigmoid"), X, "gradient", target=target, **HOW)
        torch.testing.assert_close(found.score, sign * Z)
        torch.testing.assert_close(found.attribution.flatten(1), (sign * W).expand(3, -1))


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("sigmoid", 0),
        pytest.param("sigmoid", 1, marks=SLOW),
        pytest.param("probabilities", 0, marks=SLOW),
        ("probabilities", 1),
    ],
)
def test_metrics(kind, target):
    names = ["insertion", "kl_deletion", "log_odds_insertion", "aopc", "average_drop", "average_increase"]
    names += ["road_morf", "comprehensiveness", "consistency", "infidelity", "f_insertion"]
    names += ["relative_output_stability", "soundness"]
    how = {
        "data": X,
        "target": target,
        "labels": [[1], [0], [1]],
        "objective": "probability",
        "step": 0.2,
        **HOW,
    }

    def values(task: abe.Task) -> dict[str, list[float]]:
        found = abe.evaluate(task, {"g": "gradient_x_input"}, names, **how).scores["g"]
        return {name: score.values.tolist() for name, score in found.items()}

    one, other = values(single(kind)), values(twin(kind))
    for name, right in other.items():
        assert one[name] == pytest.approx(right, rel=2e-3, abs=1e-4, nan_ok=True), name


@EVERY_KIND
@pytest.mark.parametrize("aim", [{}, {"label": [1, 0, 1]}, {"target": "other"}], ids=shown)
@pytest.mark.parametrize(
    "name", ["pgd", "cw", *(pytest.param(n, marks=SLOW) for n in ("fgsm", "bim", "mim", "mig", "gra", "tim"))]
)
def test_attacks(kind, aim, name):
    if "target" in aim:
        aim = {"target": (Z <= 0).long()}
    settings = {"cw": {"steps": 10, "searches": 2}}.get(name, {})
    one, other = (abe.attack(task, X, name, **aim, **settings, **HOW) for task in (single(kind), twin(kind)))
    torch.testing.assert_close(one.x_adv, other.x_adv, rtol=1e-3, atol=1e-4)
    assert one.success.tolist() == other.success.tolist()
    assert one.to_dict()["samples"][0]["after"] == other.to_dict()["samples"][0]["after"]
    assert torch.equal(one.label_before, other.label_before)


@EVERY_KIND
@pytest.mark.parametrize(
    "name",
    [
        "agi",
        "laai",
        "lrp_epsilon",
        *(pytest.param(n, marks=SLOW) for n in ("mfaba", "la", "big", "deeplift")),
    ],
)
def test_methods(kind, name):
    if kind == "probabilities" and name == "lrp_epsilon":
        pytest.skip("relevance stops at the sigmoid and at the softmax")
    one, other = (abe.explain(task, X, name, target=1, **HOW) for task in (single(kind), twin(kind)))
    torch.testing.assert_close(one.attribution, other.attribution, rtol=1e-3, atol=1e-4)


def test_other_class_of_one_output():
    found = abe.evaluate(single("sigmoid"), {"g": "gradient"}, ["random_logit"], data=X, **HOW)
    assert found.scores["g"]["random_logit"].values.tolist() == pytest.approx([1.0] * 3)


@EVERY_KIND
def test_robust_accuracy(kind):
    one, other = (
        abe.evaluate_robustness(task, X, "fgsm", epsilons=[0.02, 0.1], label=[[1], [0], [1]], **HOW)
        for task in (single(kind), twin(kind))
    )
    assert one.robust_accuracy == other.robust_accuracy


# -- labels of their own -----------------------------------------------------------------------------------

MANY = torch.randn(4, 108, generator=torch.Generator().manual_seed(9)) * 0.4


class Labels(nn.Module):
    """Four independent logits, or one of them against 0."""

    def __init__(self, one: int | None = None) -> None:
        super().__init__()
        self.w, self.one = nn.Parameter(MANY.clone()), one
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        z = (x - 0.5).flatten(1) @ self.w.T
        return z if self.one is None else two(z[:, self.one, None])


@pytest.mark.parametrize("label", [0, 3])
def test_labels_of_their_own(label):
    task, alone = abe.image_task(Labels(), output_kind="multilabel"), abe.image_task(Labels(label))
    for objective in ("logit", "probability", "log_probability", "margin", "entropy", "label_agnostic"):
        one = abe.explain(task, X, "gradient", target=label, objective=objective, **HOW)
        other = abe.explain(alone, X, "gradient", target=1, objective=objective, **HOW)
        torch.testing.assert_close(one.score, other.score, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.attribution, other.attribution, rtol=1e-4, atol=1e-6)
    metrics = ["insertion", "kl_insertion", "log_odds_deletion", "average_drop", "f_insertion"]
    one, other = (
        abe.evaluate(t, {"m": MAPS}, metrics, data=X, target=y, **HOW).scores["m"]
        for t, y in ((task, label), (alone, 1))
    )
    for name in metrics:
        torch.testing.assert_close(one[name].values, other[name].values, rtol=1e-4, atol=1e-5)
    said = alone.model(X).argmax(1)
    for aim in ("label", "target"):
        chosen = said == (1 if aim == "label" else 0)
        if bool(chosen.any()):
            how = {"ids": list(range(int(chosen.sum()))), "progress": False}
            one = abe.attack(task, X[chosen], "pgd", **{aim: label}, **how)
            other = abe.attack(alone, X[chosen], "pgd", **{aim: 1}, **how)
            torch.testing.assert_close(one.x_adv, other.x_adv)
            assert one.success.tolist() == other.success.tolist()


def test_top_of_labels_of_their_own():
    found = abe.explain(abe.image_task(Labels(), output_kind="multilabel"), X, "gradient", **HOW)
    right = torch.sigmoid(Labels()(X))
    assert found.target.tolist() == right.argmax(1).tolist()
    for row, p in zip(found.top, right.tolist(), strict=True):
        assert dict(row) == {str(i): pytest.approx(one, abs=1e-6) for i, one in enumerate(p)}
    between = abe.explain(
        abe.image_task(Labels(), output_kind="multilabel"),
        X,
        "gradient",
        objective=("margin", {"a": 1, "b": 2}),
        **HOW,
    )
    z = Labels()(X).detach()
    torch.testing.assert_close(between.score, z[:, 1] - z[:, 2])


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What users pass is not checked by annotations."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


# -- what is not said --------------------------------------------------------------------------------------


def refused(code: Code, *says: str):
    class Expected:
        def __enter__(self):
            self.caught = pytest.raises(AbeError)
            self.info = self.caught.__enter__()

        def __exit__(self, *problem):
            done = self.caught.__exit__(*problem)
            assert self.info.value.code is code, str(self.info.value)
            assert all(word in str(self.info.value) for word in says), str(self.info.value)
            return done

    return Expected()


def test_two_names_for_one_output():
    found = abe.explain(abe.image_task(Net(lambda z: 3 * z), labels=LABELS), X, "gradient", **HOW)
    assert found.target_names == ["yes" if z > 0 else "no" for z in Z]
    assert any("output_kind" in note for note in found.warnings)
    with refused(Code.OUTPUT_KIND, "output_kind"):
        abe.explain(abe.image_task(Net(torch.sigmoid), labels=LABELS), X, "gradient", **HOW)


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_what_two_names_mean_does_not_depend_on_the_chunk(chunk):
    x = torch.cat([X[:1] * 0 + 0.5, X])  # the first output is 0, which a probability could be
    found = abe.explain(
        abe.image_task(Net(lambda z: 3 * z), labels=LABELS), x, "gradient", chunk=chunk, progress=False
    )
    assert found.target_names == ["no", *("yes" if z > 0 else "no" for z in Z)]


def test_one_output_of_which_nothing_is_said():
    task = abe.image_task(Net(lambda z: z))
    plain = abe.explain(task, X, "gradient", **HOW)
    torch.testing.assert_close(plain.score, Z)
    assert (plain.top, plain.warnings) == ([[], [], []], [])
    asked = abe.explain(task, X, "gradient", objective="probability", **HOW)
    assert any("output_kind" in note for note in asked.warnings)
    scores = abe.evaluate(task, {"m": MAPS}, ["insertion"], data=X, **HOW).scores["m"]["insertion"]
    assert any("output_kind" in note for note in scores.warnings)
    for call in (
        lambda: abe.attack(task, X, "pgd", **HOW),
        lambda: abe.explain(task, X, "gradient", target=1, **HOW),
        lambda: abe.evaluate(task, {"g": "gradient"}, ["random_logit"], data=X, **HOW),
    ):
        with pytest.raises(AbeError, match="output_kind"):
            call()


def test_a_regression_has_no_probability():
    task = abe.image_task(Net(lambda z: z), output_kind="regression")
    assert abe.explain(task, X, "gradient", **HOW).top == [[], [], []]
    for how in ({"objective": "probability"}, {"method": "laai"}):
        with pytest.raises(AbeError):
            abe.explain(task, X, **{"method": "gradient", **how}, **HOW)
    with refused(Code.UNSUPPORTED, "regression"):
        abe.evaluate(task, {"m": MAPS}, ["average_drop"], data=X, **HOW)


@pytest.mark.parametrize("kind", ["sigmoids", "softmax", "Probabilities", "", None, 1])
@pytest.mark.usefixtures("unchecked")
def test_unknown_kinds(kind):
    with refused(Code.BAD_PARAMETER, "'sigmoid'", "'multilabel'", "'probabilities'"):
        abe.Task(Net(two), "image", None, output_kind=kind)


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ("sigmoid", two),
        ("probabilities", two),
        ("probabilities", lambda z: z * 9),
        ("probabilities", lambda z: two(z).sigmoid()),
    ],
)
def test_outputs_that_are_not_of_their_kind(kind, last):
    with refused(Code.OUTPUT_KIND, "output_kind"):
        abe.explain(abe.image_task(Net(last), output_kind=kind), X, "gradient", **HOW)


@pytest.mark.parametrize(
    ("kind", "last"), [("sigmoid", torch.sigmoid), ("multilabel", lambda z: two(z).sigmoid())]
)
def test_a_sigmoid_before_logits_is_noted(kind, last):
    found = abe.explain(abe.image_task(Net(last), output_kind=kind), X, "gradient", **HOW)
    assert any("sigmoid" in note and "[ABE-OUTPUT-KIND]" in note for note in found.warnings)


# -- the shape of outputs ----------------------------------------------------------------------------------

SQUEEZES = {
    "all": lambda y: y.squeeze(),
    "last": lambda y: y.squeeze(-1),
    "column": lambda y: y[:, 0],
    "view": lambda y: y.view(-1) if len(y) > 1 else y.view(()),
}


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize(
    "method", ["gradient", "occlusion", *(pytest.param(n, marks=SLOW) for n in ("ig", "lrp_epsilon", "agi"))]
)
@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_squeezed_outputs(squeeze, method, chunk):
    how = {"progress": False, "chunk": chunk, "execution": "model"}
    for b in (1, 3):
        tasks = (
            abe.image_task(Net(last), output_kind="sigmoid") for last in (lambda z: z, SQUEEZES[squeeze])
        )
        right, got = (abe.explain(t, X[:b], method, ids=list(range(b)), target=1, **how) for t in tasks)
        torch.testing.assert_close(got.attribution, right.attribution)
        torch.testing.assert_close(got.score, right.score)


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_squeezed_maps_and_classes(chunk):
    """A row alone loses the axis of its batch with every other axis of length 1."""
    wide = nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten(0, -1)).eval()
    plain = nn.Sequential(wide[0], nn.Flatten()).eval()
    squeezed = nn.Sequential(wide[0], Shaped(lambda y: y.squeeze())).eval()
    for b in (1, 3):
        right, got = (
            abe.explain(abe.image_task(m), X[:b], "ig", chunk=chunk, progress=False)
            for m in (plain, squeezed)
        )
        torch.testing.assert_close(got.attribution, right.attribution)
        assert got.target.tolist() == right.target.tolist()


class Shaped(nn.Module):
    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x)


class Pairs(nn.Module):
    """All rows of a chunk against each other, as image–text models return them."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(108, 5, generator=torch.Generator().manual_seed(0)))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1) @ self.w
        return h @ h.T


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("method", ["gradient", "ig", "occlusion"])
@pytest.mark.parametrize("b", [2, 3])
def test_outputs_as_wide_as_the_chunk(b, method, chunk):
    task = abe.image_task(Pairs())
    with refused(Code.OUTPUT_SHAPE, "number of rows"):
        abe.explain(task, X[:b], method, target=0, chunk=chunk, progress=False)


@pytest.mark.parametrize("method", ["gradient", "ig", "occlusion"])
def test_outputs_twice_as_wide_as_the_chunk(method):
    model = nn.Sequential(Pairs(), Shaped(lambda y: torch.cat([y, y], 1)))
    with refused(Code.OUTPUT_SHAPE, "number of rows"):
        abe.explain(abe.image_task(model), X, method, target=0, chunk=2, progress=False)


@pytest.mark.parametrize("kind", ["sigmoid", "probabilities", "multilabel", "logits"])
def test_outputs_of_a_comparison(kind):
    task = abe.image_task(Net(lambda z: z > 0), output_kind=kind)
    found = abe.explain(task, X, "occlusion", objective="probability", **HOW)
    assert bool(found.score.isfinite().all())


def test_as_many_classes_as_samples():
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).eval()
    found = abe.explain(abe.image_task(model), X, "ig", **HOW)
    assert (
        found.cost.forward_rows
        == abe.explain(abe.image_task(model), X[:2], "ig", progress=False).cost.forward_rows / 2 * 3
    )


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("objective", ["logit", "probability", "margin", "entropy"])
def test_one_place_of_a_dense_output(b, objective):
    pooled = abe.image_task(dense(), output=lambda out: out[:, :, 2, 3])
    task, x = abe.image_task(dense(), labels=["a", "b", "road", "d"]), X[:b]
    right = abe.explain(pooled, x, "gradient", target=2, objective=objective, progress=False)
    for target in ((2, 2, 3), ("road", 2, 3), [(2, 2, 3)] * b, torch.tensor([[2, 2, 3]]).repeat(b, 1)):
        found = abe.explain(task, x, "gradient", target=target, objective=objective, progress=False)
        torch.testing.assert_close(found.attribution, right.attribution)
        assert found.target_names == ["[2, 2, 3]"] * b


def own(outputs: Tensor, target: Tensor) -> Tensor:
    return outputs[:, 1, 2:4].sum((1, 2))


def reads(outputs: Tensor, target: Tensor) -> Tensor:
    return outputs[torch.arange(len(outputs)), target].sum((1, 2))


@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("target", [None, 1, "each"], ids=shown)
@pytest.mark.parametrize(
    "method", ["gradient", "occlusion", *(pytest.param(n, marks=SLOW) for n in ("ig", "lrp_epsilon", "lime"))]
)
def test_an_objective_of_ones_own_for_a_dense_output(method, target, b):
    pooled = abe.image_task(dense(), output=lambda out: out[:, :, 2:4].sum((2, 3)))
    how = {"ids": list(range(b)), "progress": False}
    right = abe.explain(pooled, X[:b], method, target=1, **how)
    given = [1] * b if target == "each" else target
    found = abe.explain(abe.image_task(dense()), X[:b], method, objective=own, target=given, **how)
    torch.testing.assert_close(found.attribution, right.attribution, rtol=1e-4, atol=1e-5)
    if target is None:
        assert found.target_names == ["own"] * b


def test_an_objective_of_ones_own_for_a_regression():
    task = abe.image_task(Net(two), output_kind="regression")
    found = abe.explain(task, X, "gradient", objective=lambda out, target: out.sum(1), **HOW)
    torch.testing.assert_close(found.score, Z)
    with refused(Code.TARGET_MISSING, "target="):
        abe.explain(task, X, "gradient", objective=lambda out, target: out[range(len(out)), target], **HOW)


def test_a_target_that_an_objective_reads_is_asked_for():
    task = abe.image_task(dense())
    with refused(Code.TARGET_MISSING, "target="):
        abe.explain(task, X, "gradient", objective=reads, **HOW)
    found = abe.explain(task, X, "gradient", objective=reads, target=[0, 1, 2], **HOW)
    assert found.target.tolist() == [0, 1, 2]


# -- names -------------------------------------------------------------------------------------------------


class Column:
    """As a column of a table: an array by ``__array__`` only."""

    def __init__(self, values: list[str]) -> None:
        self.values = values

    def __array__(self, dtype: object = None, copy: object = None):
        import numpy as np

        return np.array(self.values, dtype=object)


@pytest.mark.parametrize(
    "labels",
    [
        ["no", "yes"],
        ("no", "yes"),
        {0: "no", 1: "yes"},
        {"1": "yes", "0": "no"},
        {0: "no", 1: "yes"}.values(),
        Column(["no", "yes"]),
        Column(["no", "yes"]).__array__(),
    ],
    ids=shown,
)
def test_names_by_any_spelling(labels):
    assert class_names(labels) == LABELS
    assert abe.image_task(Net(two), labels=labels).labels == LABELS


@pytest.mark.parametrize(
    "labels",
    [
        "cat",
        [["a"], ["b"]],
        {"a": 0, "b": 1},
        {0: "a", 2: "b"},
        {1: "a", 2: "b"},
        {"cat", "dog"},
        3,
        [None, "a"],
        [True, False],
    ],
    ids=shown,
)
def test_what_are_no_names(labels):
    with refused(Code.BAD_PARAMETER, "labels"):
        abe.image_task(Net(two), labels=labels)


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "b", "c"]], ids=shown)
@pytest.mark.parametrize("kind", ["auto", "logits", "multilabel", "regression"])
def test_names_that_do_not_fit(labels, kind):
    with refused(Code.LABELS, f"{len(labels)} names"):
        abe.explain(abe.image_task(Net(two), labels=labels, output_kind=kind), X, "gradient", target=0, **HOW)


def test_a_name_of_several_classes():
    task = abe.image_task(Labels(), labels=["crane", "Crane", "gull", "gull"])
    assert (task.class_index("crane"), task.class_index("Crane")) == (0, 1)
    for name in ("gull", "CRANE"):
        with refused(Code.TARGET_RANGE, "Several"):
            task.class_index(name)


SINGLES = (
    "gradient",
    "ig",
    "lrp_epsilon",
    "deep_taylor",
    "excitation_backprop",
    "deeplift",
    "rise",
    "shapley",
)


@pytest.mark.parametrize("method", SINGLES)
def test_a_conversion_to_double_at_the_end_changes_nothing(method: str) -> None:
    """The output is no more exact than what it was made of, and is judged so."""

    def found(last: Callable[[Tensor], Tensor]) -> abe.Explanation:
        return abe.explain(abe.image_task(Net(last)), X, method, target=1, **HOW)

    plain, double = found(two), found(lambda z: two(z).double())
    assert double.attribution.dtype == torch.float32
    size = float(plain.attribution.abs().max())
    torch.testing.assert_close(double.attribution, plain.attribution, rtol=1e-5, atol=1e-6 * size)
    assert double.warnings == plain.warnings


@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon", "rise"])
def test_complex_outputs_are_refused_before_anything_reads_them(method: str, target: int | None) -> None:
    task = abe.image_task(Net(lambda z: two(z).to(torch.complex64)))
    with pytest.raises(AbeError, match=r"real numbers.*complex64") as caught:
        abe.explain(task, X, method, target=target, **HOW)
    assert caught.value.code is Code.OUTPUT_TYPE
