"""Removal methods against recorded maps and games, and against peers."""

import numpy as np
import pytest
import torch
from tests.methods.common import FLOAT32, FLOAT32_WEIGHTS, FLOAT64, miss, net, oracle, run
from torch import Tensor, nn

import abe
from abe.engines.removal import set_functions
from abe.testing.draws import ReplayedDraws

GAMES = ["game_net_s_8seg_0", "game_net_s_8seg_1", "game_net_s_8seg_3"]
INDICES = {
    "sii2": ("sii", 2),
    "sii3": ("sii", 3),
    "stii2": ("stii", 2),
    "bii2": ("bii", 2),
    "fsii2": ("fsii", 2),
    "k_sii2": ("k_sii", 2),
    "faithbanzhaf2": ("fbii", 2),
}


def regions(case) -> tuple[str, dict[str, Tensor]]:
    return "regions", {"regions": case["regions"].long()}


def whole(case) -> Tensor:
    return case["out"].expand(-1, 3, -1, -1)


def unit_values(explanation: abe.Explanation) -> Tensor:
    return explanation.diagnostics["unit_values"]


def test_recorded_feature_ablation():
    case = oracle("captum_featureablation")
    found = run(case, "occlusion", units=regions(case), variant="published")
    assert miss(found.attribution, whole(case)) < FLOAT64
    assert found.cost.forward_rows == len(case["x"]) * 17
    shared = run(case, "occlusion", units=regions(case))
    assert miss(shared.attribution * 8 * 8 * 3, whole(case)) < FLOAT64


def test_recorded_occlusion():
    case = oracle("captum_occlusion")
    found = run(case, "occlusion_patch", size=8, stride=4)
    assert miss(found.attribution, whole(case)) <= FLOAT32_WEIGHTS  # recorded in float32
    assert miss(found.attribution.float(), whole(case)) < FLOAT64
    assert found.cost.forward_rows == len(case["x"]) * 50


def test_recorded_shapley_values():
    case = oracle("captum_shapley_6seg")
    found = run(case, "shapley", units=regions(case), variant="published")
    assert miss(found.attribution, whole(case)) < FLOAT32
    assert found.cost.forward_rows == len(case["x"]) * 64
    case = oracle("shap_exact_8seg_0")
    found = run(case, "shapley", units=regions(case))
    assert miss(unit_values(found), case["out"][None]) < FLOAT64
    assert float(Segments(case)(torch.zeros(1, 8))[0]) == pytest.approx(float(case["base"]), rel=1e-12)


def test_recorded_kernel_shap_tends_to_the_exact_values():
    """A statistical check: 4,000 draws for 255 coalitions leave some per cent."""
    case = oracle("captum_kernelshap_8seg_n4000")
    found = run(case, "kernel_shap", units=regions(case), variant="published")
    assert found.standard_error is None
    assert miss(found.attribution, whole(case)) < 0.1


@pytest.mark.parametrize("name", GAMES)
def test_recorded_games(name):
    """Values, interactions and dividends of one run of 255 rows, through the model."""
    case = oracle(name)
    task = abe.image_task(net("s"), output_kind="logits")
    wanted = [("interactions", {"index": index, "order": order}) for index, order in INDICES.values()]
    found = abe.explain_game(
        task,
        case["x"],
        ["shapley", "banzhaf", ("interactions", {"index": "moebius", "order": 8}), *wanted],
        units=regions(case),
        target=case["target"],
        progress=False,
    )
    assert found[0].cost.forward_rows == 256
    assert miss(Segments(case)(set_functions.coalitions(8))[None], case["values"][None]) < FLOAT64
    singles = [0, *(1 << i for i in range(8))]
    assert case["shapley_mask"].tolist() == case["banzhaf_mask"].tolist() == singles
    assert miss(unit_values(found[0]), case["shapley"][1:][None]) < FLOAT64
    assert miss(unit_values(found[1]), case["banzhaf"][1:][None]) < FLOAT64
    named = ["moebius", *INDICES]
    for index, explanation in zip(named, found[2:], strict=True):
        sets = explanation.diagnostics["interaction_sets"][0]
        recorded = dict(zip(case[f"{index}_mask"].tolist(), case[index].tolist(), strict=True))
        right = torch.tensor([recorded[s] for s in sets.tolist()], dtype=torch.float64)
        assert miss(explanation.diagnostics["interactions"], right[None]) < tolerance(index)
        none = explanation.diagnostics["empty_interaction"]
        assert float((none - recorded[0]).abs().max()) < FLOAT64 * float(right.abs().max())


def test_recorded_random_game():
    case = oracle("game_random8")
    v = case["values"]
    assert case["shapley_mask"].tolist() == case["banzhaf_mask"].tolist() == [0, *(1 << i for i in range(8))]
    assert miss(set_functions.shapley(v)[None], case["shapley"][1:][None]) < FLOAT64
    assert miss(set_functions.banzhaf(v)[None], case["banzhaf"][1:][None]) < FLOAT64
    assert (
        miss(set_functions.dividends(v)[case["moebius_mask"].long()][None], case["moebius"][None]) < FLOAT64
    )
    for name, (index, order) in INDICES.items():
        sets, found = set_functions.interactions(v, index, order)
        recorded = dict(zip(case[f"{name}_mask"].tolist(), case[name].tolist(), strict=True))
        right = torch.tensor([recorded[s] for s in sets.tolist()], dtype=torch.float64)
        assert miss(found[None], right[None]) < tolerance(name)
        none = set_functions.empty_interaction(v, index, order)
        assert float((none - recorded[0]).abs()) < FLOAT64


def tolerance(name: str) -> float:
    """The recorded Faith-Shap is a regression with large weights at both ends instead of a constraint."""
    return 1e-8 if name == "fsii2" else FLOAT64


def test_recorded_rise():
    """The recorded masks replayed; the default divides by the masks drawn, not by their mean."""
    case = oracle("rise")
    n, ids = len(case["grid"]), range(4)
    block = torch.zeros(64, 2 + 64)
    block[:n, :2] = (case["shift"] + 0.5) / 4  # offsets below ⌈32 / 8⌉, then cells that are kept below p
    block[:n, 2:] = (~case["grid"].bool()).flatten(1).float()
    recorded = {"rise.masks": {(i, 0): block for i in ids}}
    settings = {"evaluations": n, "cells": 8, "p": 0.1, "objective": "probability", "dtype": torch.float32}
    draws = ReplayedDraws(recorded)
    found = run(case, "rise", variant="published", draws=draws, **settings)
    assert draws.left == []
    right = case["out"][:, None].expand(-1, 3, -1, -1)
    assert miss(found.attribution, right) < FLOAT32
    assert miss(run(case, "rise", draws=ReplayedDraws(recorded), **settings).attribution, right) > 0.01


class Segments(nn.Module):
    """The score of net s by which of eight segments are kept, as peers ask for it."""

    def __init__(self, case) -> None:
        super().__init__()
        self.net, self.x = net("s"), case["x"]
        self.labels, self.target = case["regions"].long(), int(case["target"][0])

    def forward(self, z: Tensor) -> Tensor:
        keep = z.double()[:, self.labels][:, None]
        with torch.no_grad():
            return self.net(self.x * keep)[:, self.target]


@pytest.mark.peers
def test_lime_fits_as_the_peer_does():
    """The peer's own fit on our rows: same weights (its root of the kernel), ridge and intercept."""
    base = pytest.importorskip("lime.lime_base")
    from sklearn.metrics import pairwise_distances

    case = oracle("game_net_s_8seg_0")
    game = Segments(case)
    generator = torch.Generator().manual_seed(5)
    z = (torch.rand((200, 8), generator=generator) < 0.5).double()
    z[0] = 1
    y = game(z)
    recorded = {"removal.Ridge": {(0, 0): torch.where(z[1:] == 1, 0.0, 1.0)}}
    draws = Partly(recorded)
    found = run(
        case,
        "lime",
        units=regions(case),
        removal="zero",
        evaluations=199,
        variant="published",
        draws=draws,
    )
    distances = pairwise_distances(z.numpy(), z[:1].numpy(), metric="cosine").ravel()
    peer = base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)), random_state=0)
    _, local, r2, _ = peer.explain_instance_with_data(
        z.numpy(), np.stack([y.numpy()], 1), distances, 0, 8, feature_selection="none"
    )
    right = torch.tensor([weight for _, weight in sorted(local)])
    assert miss(unit_values(found), right[None]) < 1e-8
    assert float(found.diagnostics["adherence"]) == pytest.approx(r2, abs=1e-8)


def test_baylime_without_a_prior_maximises_the_evidence():
    """The posterior at the precisions that make the scores most probable, found by climbing there."""
    case = oracle("game_net_s_8seg_0")
    game = Segments(case)
    z = (torch.rand((300, 8), generator=torch.Generator().manual_seed(6)) < 0.5).double()
    draws = Partly({"removal.BayesianRidge": {(0, 0): torch.where(z == 1, 0.0, 1.0)}})
    found = run(case, "baylime", units=regions(case), removal="zero", evaluations=300, draws=draws)
    z = torch.cat([torch.ones((1, 8), dtype=torch.float64), z])
    weight = torch.exp(-((1 - (z.sum(1) / 8).sqrt()) ** 2) / 0.25**2)
    mean, covariance = most_probable(z, game(z), weight)
    assert miss(unit_values(found), mean[None]) < 1e-6
    sigma = covariance.diagonal().sqrt()
    per_unit = (
        found.standard_error[0, 0]
        * 3
        * torch.bincount(case["regions"].long().flatten())[case["regions"].long()]
    )
    for unit in range(8):
        own = per_unit[case["regions"] == unit]
        assert float((own / sigma[unit] - 1).abs().max()) < 1e-4


def most_probable(z: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of weights under both precisions' Gamma(1e-6, 1e-6) where the evidence peaks."""
    z, y = (v - weight @ v / weight.sum() for v in (z, y))
    gram, moment = (z.T * weight) @ z, (z.T * weight) @ y

    def posterior(precision: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        covariance = torch.linalg.inv(precision * torch.eye(8) + noise * gram)
        return noise * covariance @ moment, covariance

    def surprise() -> Tensor:
        precision, noise = logs.exp()
        mean, covariance = posterior(precision, noise)
        wrong = noise * weight @ (y - z @ mean).square() + precision * mean.square().sum()
        sizes = 8 * logs[0] + weight.sum() * logs[1] + covariance.logdet()
        loss = (wrong - sizes) / 2 - 1e-6 * (logs - logs.exp()).sum()
        climber.zero_grad()
        loss.backward()
        return loss

    logs = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    how = {"max_iter": 1000, "tolerance_grad": 1e-12, "tolerance_change": 0.0}
    climber = torch.optim.LBFGS([logs], line_search_fn="strong_wolfe", **how)
    climber.step(surprise)
    return posterior(*logs.detach().exp())


class Partly(ReplayedDraws):
    """Recorded draws for some purposes, zeros for what has no influence on the map (bootstraps)."""

    def integers(self, purpose, keys, high, shape):
        return torch.arange(high).expand(len(keys), *shape)


@pytest.mark.peers
def test_exact_indices_of_the_peer():
    shapiq = pytest.importorskip("shapiq")
    case = oracle("game_net_s_8seg_1")
    game = Segments(case)
    computer = shapiq.ExactComputer(lambda z: game(torch.as_tensor(z)).numpy(), n_players=8)
    own = set_functions.interactions(case["values"], "stii", 3)
    found = computer("STII", order=3)
    for code, number in zip(own[0].tolist(), own[1].tolist(), strict=True):
        members = tuple(i for i in range(8) if code >> i & 1)
        assert number == pytest.approx(found[members], abs=1e-9)


@pytest.mark.peers
def test_kernel_shap_of_the_peer_with_all_coalitions():
    shap = pytest.importorskip("shap")
    case = oracle("game_net_s_8seg_0")
    game = Segments(case)
    explainer = shap.KernelExplainer(lambda z: game(torch.as_tensor(z)).numpy(), np.zeros((1, 8)))
    right = explainer.shap_values(np.ones((1, 8)), nsamples=254, l1_reg=False, silent=True)
    found = run(case, "kernel_shap", units=regions(case), evaluations=255)
    assert miss(unit_values(found), torch.as_tensor(right)) < 1e-8
