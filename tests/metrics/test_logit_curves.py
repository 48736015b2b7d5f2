"""Curves of the raw score: by hand, and refused where there is none; what scores tell of time."""

import pytest
import torch
from torch import nn

import abe
from abe.errors import Code
from abe.metrics import score

X = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def network(outputs: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, outputs)).double().eval()


def task(net: nn.Module, kind: str = "logits") -> abe.Task:
    return abe.image_task(net, output_kind=kind)


def made(given: abe.Task, target: int = 1) -> abe.Explanation:
    return abe.explain(given, X, "gradient_x_input", target=target, ids=[0, 1], progress=False)


def by_hand(net: nn.Sequential, explanation: abe.Explanation, end: float) -> torch.Tensor:
    """(b, 17) logits while pixels go, best first, into a colour."""
    rows = []
    for x, a in zip(X, explanation.attribution, strict=True):
        order, row = a.sum(0).flatten().argsort(descending=True), x.clone().flatten(1)
        line = [row.clone()]
        for pixel in order:
            row[:, pixel] = end
            line.append(row.clone())
        rows.append(torch.stack(line))
    with torch.no_grad():
        return torch.stack([net(row.unflatten(2, (4, 4)))[:, 1] for row in rows])


def test_by_hand():
    net = network()
    explanation, given = made(task(net)), task(net)
    line = by_hand(net, explanation, 0.0)
    deletion = score(explanation, given, metric=("deletion", {"curve": "logit", "step": 1}))
    torch.testing.assert_close(deletion.curve, line)
    assert "curve=logit" in deletion.label
    trapezoid = torch.trapezoid(line, dx=1 / 16)
    torch.testing.assert_close(deletion.values, trapezoid)
    aopc = score(explanation, given, metric=("aopc", {"curve": "logit", "step": 1}))
    torch.testing.assert_close(aopc.values, (line[:, :1] - line).mean(1))
    flips = score(explanation, given, metric=("pixel_flipping", {"curve": "logit", "step": 1}))
    torch.testing.assert_close(flips.curve, line[:, 1:])
    for step, expected in ((8, line[:, 8:17:8].mean(1)), (16, line[:, 16])):  # two removals, and one
        few = score(explanation, given, metric=("pixel_flipping", {"curve": "logit", "step": step}))
        torch.testing.assert_close(few.values, expected)
    gap = score(explanation, given, metric=("gap", {"curve": "logit", "step": 1}))
    gained = score(explanation, given, metric=("insertion", {"curve": "logit", "step": 1}))
    torch.testing.assert_close(gap.values, gained.values - deletion.values)


def test_the_fair_forms_end_at_the_confusion_feature():
    net = network()
    explanation, given = made(task(net)), task(net)
    asked = {"curve": "logit", "step": 1}
    insertion, deletion = (
        score(explanation, given, metric=(n, asked)) for n in ("f_insertion", "f_deletion")
    )
    torch.testing.assert_close(insertion.curve[:, 0], deletion.curve[:, -1])
    torch.testing.assert_close(insertion.curve[:, -1], net(X)[:, 1].detach())
    gap = score(explanation, given, metric=("f_gap", asked))
    torch.testing.assert_close(gap.values, insertion.values - deletion.values)


@pytest.mark.parametrize(("kind", "sign"), [("sigmoid", (-1, 1)), ("multilabel", (1, 1))])
def test_one_logit_for_two_classes_and_labels_of_their_own(kind: str, sign: tuple[int, int]):
    net = network(1 if kind == "sigmoid" else 2)
    for target in (0, 1):
        found = score(
            made(task(net, kind), target), task(net, kind), metric=("deletion", {"curve": "logit", "step": 1})
        )
        whole = net(X)[:, 0 if kind == "sigmoid" else target].detach()
        torch.testing.assert_close(found.curve[:, 0], sign[target] * whole)


LOGITS = ("insertion", "deletion", "gap", "f_insertion", "f_deletion", "f_gap", "aopc", "pixel_flipping")


@pytest.mark.parametrize("kind", ["probabilities", "auto"])
@pytest.mark.parametrize("name", LOGITS)
def test_probabilities_have_no_logit(name: str, kind: str):
    given = task(nn.Sequential(network(), nn.Softmax(1)), kind)
    asked = [(name, {"curve": "logit"})]
    for run in (
        lambda: score(made(given), given, metric=asked[0]),
        lambda: abe.compare(given, X, ["gradient"], asked, progress=False),
    ):
        with pytest.raises(abe.AbeError, match="follows the logit, and this model has none") as caught:
            run()
        assert caught.value.code is Code.UNSUPPORTED
    with pytest.raises(abe.AbeError, match="No such curve"):
        score(made(given), given, metric=(name, {"curve": "logits"}))


def test_what_a_clock_says_is_told_when_asked():
    given = task(network())
    first, second = (score(made(given), given, metric="insertion", step=4) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    cost = first.to_dict(timings=True)["cost"]
    assert cost["seconds"] > 0
    assert cost["forward_calls"] > 0
    assert cost["forward_rows"] == first.to_dict()["cost"]["forward_rows"]
    found = abe.compare(given, X, ["gradient"], ["insertion"], progress=False)
    told = found.to_dict(timings=True)["ranking"][0]["scores"]["insertion"]["cost"]
    assert told["seconds"] > 0
    assert "seconds" not in found.to_dict()["ranking"][0]["scores"]["insertion"]["cost"]
