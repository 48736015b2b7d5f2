"""Every score against its formula, per row and never across the batch."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code
from abe.objectives import Similarity, as_objective, gather, objective_name
from abe.registry import objectives
from abe.spec import from_spec, to_spec

OUT = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, 3.0, 3.5, -2.0], [4.0, 4.0, 4.0, 4.0]], dtype=torch.float64)
TARGET = torch.tensor([1, 0, 3])
P = OUT.softmax(1)
PICK = P[range(3), TARGET]

FORMULAS = {
    "logit": torch.tensor([2.0, 0.0, 4.0], dtype=torch.float64),
    "probability": PICK,
    "log_probability": PICK.log(),
    "loss": -F.cross_entropy(OUT, TARGET, reduction="none"),
    "margin": torch.tensor([1.0, -3.5, 0.0], dtype=torch.float64),
    "label_agnostic": (torch.full_like(P, 0.25) * (torch.full_like(P, 0.25) / P).log()).sum(1),
    "entropy": (P * P.log()).sum(1),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name):
    score = as_objective(name)
    torch.testing.assert_close(score(OUT, TARGET), FORMULAS[name], rtol=1e-12, atol=1e-12)
    alone = torch.cat([score(OUT[i : i + 1], TARGET[i : i + 1]) for i in range(3)])
    assert torch.equal(alone, score(OUT, TARGET))
    assert objectives.get(name).card.name == name
    assert from_spec(to_spec(score)) == score


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_stay_in_their_row(name):
    """The gradient of the sum is the gradient of each row by itself: no mean, no block over the batch."""
    score = as_objective(name)
    out = OUT.clone().requires_grad_(True)
    (together,) = torch.autograd.grad(score(out, TARGET).sum(), out)
    for i in range(3):
        row = OUT[i : i + 1].clone().requires_grad_(True)
        (alone,) = torch.autograd.grad(score(row, TARGET[i : i + 1]).sum(), row)
        assert torch.equal(together[i], alone[0])


def test_uniform_prediction_is_undecided():
    for name in ("label_agnostic", "entropy"):
        at = as_objective(name)(OUT, TARGET)
        assert at[2] == min(at)
    assert float(as_objective("label_agnostic")(OUT, TARGET)[2]) == pytest.approx(0.0, abs=1e-12)
    assert float(as_objective("entropy")(OUT, TARGET)[2]) == pytest.approx(-math.log(4))


def test_certain_predictions_stay_finite():
    extreme = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]], dtype=torch.float64)
    for name in FORMULAS:
        score = as_objective(name)
        out = extreme.clone().requires_grad_(True)
        made = score(out, torch.tensor([0, 0]))
        assert torch.isfinite(made).all(), name
        assert torch.isfinite(torch.autograd.grad(made.sum(), out)[0]).all(), name


def test_margin_between_given_classes():
    score = as_objective(("margin", {"a": 0, "b": 2}))
    assert score(OUT, TARGET).tolist() == [2.0, -3.5, 0.0]
    assert as_objective(("margin", {"b": 0}))(OUT, TARGET).tolist() == [1.0, 0.0, 0.0]
    assert objective_name(score) == "Margin(a=0, b=2)"
    with pytest.raises(AbeError) as caught:
        as_objective("margin")(OUT[:, :1], torch.zeros(3, dtype=torch.long))
    assert caught.value.code is Code.UNSUPPORTED


def test_gather():
    assert gather(OUT, TARGET).tolist() == [2.0, 0.0, 4.0]
    boxes = torch.arange(24).view(2, 3, 4)
    assert gather(boxes, torch.tensor([[0, 1], [2, 3]])).tolist() == [1, 23]


def test_one_output_is_the_log_odds_of_its_class():
    logit = torch.tensor([[0.3], [-2.0]])
    yes, no = torch.tensor([0, 0]), torch.tensor([1, 1])
    torch.testing.assert_close(as_objective("probability")(logit, yes), logit.sigmoid()[:, 0])
    torch.testing.assert_close(as_objective("log_probability")(logit, no), F.logsigmoid(-logit)[:, 0])


def test_similarity():
    reference = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    found = Similarity(reference)(OUT, TARGET)
    torch.testing.assert_close(found, OUT[:, 0] / OUT.norm(dim=1))
    each = Similarity(OUT.flip(0))(OUT, torch.arange(3))
    torch.testing.assert_close(each, F.cosine_similarity(OUT, OUT.flip(0)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Linear(16, 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu().flatten(1))


def test_unit_of_a_layer():
    model, x = Net(), torch.rand(2, 3, 2, 2)
    found = abe.explain(
        abe.image_task(model),
        x,
        "gradient",
        progress=False,
        objective=("unit", {"layer": "first", "index": 2}),
    )
    torch.testing.assert_close(found.score, model.first(x)[:, 2].mean((1, 2)).detach())
    right = model.first.weight[2].view(1, 3, 1, 1).expand(2, 3, 2, 2).detach() / 4
    torch.testing.assert_close(found.attribution, right)
    whole = abe.explain(
        abe.image_task(model),
        x,
        "ig",
        steps=4,
        progress=False,
        objective=("unit", {"layer": "second", "index": 1}),
    )
    plain = abe.explain(abe.image_task(model), x, "ig", steps=4, progress=False, target=1)
    torch.testing.assert_close(whole.attribution, plain.attribution)
    assert not model.first._forward_hooks


def test_functions_see_the_raw_output():
    model, x = nn.Sequential(Net(), nn.Softmax(1)).eval(), torch.rand(2, 3, 2, 2)

    def difference(outputs: Tensor, target: Tensor) -> Tensor:
        return outputs[:, 0] - outputs[:, 1]

    found = abe.explain(abe.image_task(model), x, "ig", steps=20, progress=False, objective=difference)
    with torch.no_grad():
        torch.testing.assert_close(found.score, model(x)[:, 0] - model(x)[:, 1])
    assert found.objective.endswith("difference")
    named = abe.explain(
        abe.image_task(model), x, "ig", steps=20, progress=False, objective="margin", target=0
    )
    assert named.objective == "Margin(a=None, b=None)"


def test_output_of_another_kind_with_an_objective_of_its_own():
    """Boxes and scores, as a detector returns them: no tensor is picked, the function reads the dict."""

    class Detector(Net):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"boxes": super().forward(x)[:, :4], "scores": super().forward(x)[:, 4:]}

    model, x = Detector(), torch.rand(2, 3, 2, 2)
    task = abe.image_task(model, output=lambda raw: raw)
    found = abe.explain(
        task, x, "ig", steps=8, progress=False, objective=lambda raw, target: raw["scores"][:, 0], chunk=1
    )
    with torch.no_grad():
        torch.testing.assert_close(found.score, model(x)["scores"][:, 0])
    assert found.top == [[], []]
    with pytest.raises(AbeError) as caught:
        abe.explain(task, x, "ig", steps=8, progress=False)
    assert caught.value.code is Code.OUTPUT_TYPE
