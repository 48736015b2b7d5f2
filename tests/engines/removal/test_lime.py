"""Local surrogates: exact on linear scores, their relations, and what the variants add."""

import pytest
import torch
from tests.engines.removal.common import explained, random_game, values

import abe
from abe.engines.removal import set_functions
from abe.engines.removal.least_squares import fit, least_angles
from abe.engines.removal.lime import cosine_kernel
from abe.errors import Code
from abe.testing import nets, samples, task_of


def additive(u: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    own = torch.randn(u, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bits = set_functions.coalitions(u).double()
    return 0.5 + bits @ own, own


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("lime", {"penalty": 0.0}),
        ("optilime", {"penalty": 0.0}),
        ("baylime", {}),
        ("s_lime", {"penalty": 0.0, "features": 8}),
        ("kernel_shap", {"evaluations": 60}),
    ],
)
def test_an_additive_score_is_found_exactly(method, params):
    v, own = additive(8)
    found = explained(v, method, removal="zero", **params)
    assert float((values(found)[0] - own).abs().max()) < 1e-5
    if method != "kernel_shap":
        assert float(found.diagnostics["adherence"]) > 1 - 1e-9


def test_a_ridge_without_kernel_or_penalty_tends_to_the_banzhaf_value():
    """Least squares over all coalitions alike is exactly Banzhaf's; over draws of them it tends to it."""
    v = random_game(6, seed=1)
    z = set_functions.coalitions(6).double()
    assert (
        float((fit(z, v, torch.ones(64).double(), 0.0).slope - set_functions.banzhaf(v)).abs().max()) < 1e-9
    )
    found = explained(v, "lime", removal="zero", width=1e4, penalty=0.0, evaluations=4000)
    assert float((values(found)[0] - set_functions.banzhaf(v)).abs().max()) < 0.02


def test_the_ridge_is_the_normal_equations():
    z = (torch.rand(50, 4, dtype=torch.float64) < 0.5).double()
    y, weight = torch.randn(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    found = fit(z, y, weight, 0.7)
    full = torch.cat([torch.ones(50, 1, dtype=torch.float64), z], dim=1)
    penalty = 0.7 * torch.eye(5, dtype=torch.float64)
    penalty[0, 0] = 0
    right = torch.linalg.solve((full.T * weight) @ full + penalty, (full.T * weight) @ y)
    assert float((found.slope - right[1:]).abs().max()) < 1e-10
    residual = y - full @ right
    mean = (weight @ y) / weight.sum()
    r2 = 1 - (weight @ residual**2) / (weight @ (y - mean) ** 2)
    assert float(found.adherence) == pytest.approx(float(r2), abs=1e-10)


def test_the_kernel_is_the_cosine_distance_to_all_units():
    z = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    distance = torch.tensor([0.0, 1 - 1 / 2, 1.0], dtype=torch.float64)
    torch.testing.assert_close(cosine_kernel(z, 0.25), torch.exp(-(distance**2) / 0.0625))
    torch.testing.assert_close(cosine_kernel(z, 0.25, root=True), torch.exp(-(distance**2) / 0.0625).sqrt())


def test_errors_of_the_ridge_cover_what_infinitely_many_rows_would_give():
    v = random_game(6, seed=3)
    z = set_functions.coalitions(6).double()
    right = fit(z, v, cosine_kernel(z, 0.5), 0.0).slope
    found = explained(v, "lime", copies=300, removal="zero", width=0.5, penalty=0.0, evaluations=250)
    error = found.standard_error.flatten(1)
    covered = ((values(found) - right).abs() < 1.96 * error).double().mean()
    assert 0.90 < float(covered) < 0.985


@pytest.mark.parametrize(("apart", "least"), [(True, 95), (False, 100 * (2 + 4 / 3) / 4)])
def test_stability_indices_tell_few_rows_from_many(apart, least):
    """Three effects of .66 to .67 tie for two of four places: any two of them share 4/3, whatever the rows.

    Moved apart, they leave nothing to chance.
    """
    v = random_game(8, seed=5)
    if apart:
        v = (
            v
            + set_functions.coalitions(8).double() @ torch.tensor([0, -0.4, 0.3, 0.4, 0, 0, 0, 0.3]).double()
        )
    few = explained(v, "lime", removal="zero", evaluations=14, penalty=0.1)
    many = explained(v, "lime", removal="zero", evaluations=2000, penalty=0.1)
    for name, bar in (("coefficient_stability", 95), ("variable_stability", least)):
        low, high = float(few.diagnostics[name]), float(many.diagnostics[name])
        assert 0 <= low <= 100
        assert high > bar
    assert float(few.diagnostics["variable_stability"]) < float(many.diagnostics["variable_stability"])


# ---------------------------------------------------------------- variants


def test_optilime_takes_the_widest_kernel_that_adheres():
    v = random_game(8, seed=7)
    reached = []
    for target in (0.5, 0.9, 0.97):
        found = explained(v, "optilime", removal="zero", adherence=target, penalty=0.01)
        width, share = float(found.diagnostics["width"]), float(found.diagnostics["adherence"])
        warned = any(Code.TOLERANCE_NOT_REACHED in w for w in found.warnings)
        assert warned == (share < target)
        reached.append((width, share))
        same = explained(v, "removal", summary=("lime", {"width": width, "penalty": 0.01}), evaluations=1000)
        assert float(same.diagnostics["adherence"]) == pytest.approx(share, abs=0.05)
    assert reached[0][0] >= reached[1][0]


def test_baylime_moves_from_the_data_to_the_prior_as_its_precision_grows():
    v, own = additive(6, seed=2)
    plain = explained(v, "lime", removal="zero", penalty=1e-9)
    prior = (
        "occlusion",
        {"units": "pixel", "removal": abe.baselines.Constant(value=0.9)},
    )  # removes nothing: 0
    for precision, where in ((1e-9, values(plain)), (1e12, torch.zeros(1, 6).double())):
        found = explained(v, "baylime", removal="zero", prior=prior, precision=precision, noise_precision=1.0)
        assert float((values(found) - where).abs().max()) < 1e-6
    told = explained(
        v,
        "baylime",
        removal="zero",
        prior=("shapley", {"units": "pixel"}),
        precision=1e12,
        noise_precision=1.0,
    )
    assert float((values(told) - own).abs().max()) < 1e-6
    assert told.cost.forward_rows > plain.cost.forward_rows


def test_s_lime_chooses_the_largest_effects_and_asks_for_rows_where_it_cannot_tell():
    own = torch.tensor([3.0, 0.1, -2.0, 0.1, 1.0, 0.05], dtype=torch.float64)
    v = set_functions.coalitions(6).double() @ own
    found = explained(v, "s_lime", removal="zero", features=3, start=100, evaluations=800)
    assert sorted(found.diagnostics["chosen"][0].tolist()) == [0, 2, 4]
    assert found.warnings == []
    assert found.diagnostics["rows"][0] < 500
    tie = set_functions.coalitions(6).double() @ torch.tensor([1.0, 1, 1, 1, 1, 1]).double()
    found = explained(tie, "s_lime", removal="zero", features=3, start=100, evaluations=800)
    assert any(Code.TOLERANCE_NOT_REACHED in w for w in found.warnings)
    assert found.diagnostics["rows"][0] >= 801  # coalitions of all units cost nothing
    assert found.cost.forward_rows <= 801


def entering(x: torch.Tensor, y: torch.Tensor) -> list[int]:
    """Columns in the order in which they come to correlate with what is left as much as those fitted do."""
    columns = [int((x.T @ y).abs().argmax())]
    while len(columns) < x.shape[1]:
        toward = x[:, columns] @ torch.linalg.lstsq(x[:, columns], y[:, None]).solution[:, 0]
        free = [i for i in range(x.shape[1]) if i not in columns]
        low, high = 0.0, 1.0
        for _ in range(60):  # the share of the way to the fit at which the next one is level
            share = (low + high) / 2
            correlation = (x.T @ (y - share * toward)).abs()
            ahead = correlation[free].max() > correlation[columns[0]]
            low, high = (low, share) if ahead else (share, high)
        y = y - high * toward
        columns.append(free[int((x.T @ y).abs()[free].argmax())])
    return columns


def test_least_angles_take_columns_as_they_come_level():
    x = torch.randn(80, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (x - x.mean(0)) / (x - x.mean(0)).norm(dim=0)
    y = x @ torch.tensor([3.0, -2, 1.5, 0, 0.5, 0, 0.2]).double()
    y = y + 0.05 * torch.randn(80, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = y - y.mean()
    chosen, _ = least_angles(x, y, 7, 1.6)
    assert chosen == entering(x, y)


# ---------------------------------------------------------------- C-LIME


def test_c_lime_of_a_linear_score_is_its_gradient_and_of_any_tends_to_smoothgrad():
    x = samples(2)
    linear = nets.Linear()
    found = abe.explain(
        task_of(linear), x, "c_lime", units="element", evaluations=200, target=1, progress=False
    )
    gradient = linear.weight[1].detach().view(1, *nets.SHAPE).expand_as(x)
    torch.testing.assert_close(found.attribution, gradient, rtol=1e-8, atol=1e-8)
    net = nets.Smooth()
    how = {"target": 1, "progress": False, "execution": "model"}
    right = abe.explain(task_of(net), x, "smoothgrad", samples=4000, **how).attribution
    found = abe.explain(task_of(net), x, "c_lime", units="element", evaluations=20_000, **how)
    missed = (found.attribution - right).abs()
    assert float((missed / found.standard_error).square().mean()) < 2
    cosine = torch.cosine_similarity(found.attribution.flatten(1), right.flatten(1))
    assert float(cosine.min()) > 0.99


def test_c_lime_of_cells_is_the_slope_of_moving_a_cell():
    x, linear = samples(1), nets.Linear()
    found = abe.explain(
        task_of(linear), x, "c_lime", units=("grid", {"n": 2}), evaluations=50, target=1, progress=False
    )
    slope = linear.weight[1].detach().view(3, 6, 6)
    right = slope[:, :3, :3].mean()
    torch.testing.assert_close(found.attribution[0, :, :3, :3], right.expand(3, 3, 3), rtol=1e-8, atol=1e-10)
