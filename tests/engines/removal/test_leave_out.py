"""Leave-one-out, conditional patches, RISE and interventions against slow forms and known answers."""

import pytest
import torch
from torch import nn

import abe
from abe.baselines import Given
from abe.engines.removal.patch_gaussian import PatchGaussian
from abe.engines.removal.removals import Absent
from abe.engines.removal.segments import windows_of
from abe.errors import AbeError, Code
from abe.testing import nets, problem_of, samples, task_of
from abe.testing.draws import RecordedDraws


def run(net, x, method, **how):
    settings = {"target": 1, "execution": "model", "progress": False, **how}
    return abe.explain(task_of(net), x, method, **settings)


# ---------------------------------------------------------------- occlusion


def test_occlusion_of_an_affine_score_is_weight_times_difference():
    x, net = samples(2), nets.Linear()
    found = run(net, x, "occlusion", units="element", removal=0.25)
    right = net.weight[1].detach() * (x - 0.25).flatten(1)
    torch.testing.assert_close(found.attribution.flatten(1), right, rtol=1e-9, atol=1e-12)


def test_windows_by_hand():
    x, net = samples(1), nets.Smooth()
    found = run(net, x, "occlusion_patch", size=3, stride=2, removal="mean")
    total, count = torch.zeros(6, 6).double(), torch.zeros(6, 6).double()
    for top in (0, 2, 4):
        for left in (0, 2, 4):
            row = x.clone()
            mean = x.mean((2, 3), keepdim=True).expand_as(x)
            row[..., top : top + 3, left : left + 3] = mean[..., top : top + 3, left : left + 3]
            total[top : top + 3, left : left + 3] += (net(x) - net(row))[0, 1].detach()
            count[top : top + 3, left : left + 3] += 1
    torch.testing.assert_close(found.attribution[0], (total / count).expand(3, 6, 6), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- prediction difference


def test_prediction_difference_is_the_log_odds_of_the_mean_probability():
    """Written out with the draws recorded: the fill, the mean over it, the log-odds."""
    x, net = samples(1), nets.Smooth(scale=1.0)
    recorder = RecordedDraws()
    found = run(net, x, "pdiff", size=3, stride=3, samples=6, draws=recorder)
    replay = recorder.replayed()
    problem = problem_of(net, x, draws=replay)
    windows = windows_of(x, 3, 3)
    bound = PatchGaussian(draws=6).bind(problem, windows)
    own = net(x).softmax(1)[0, 1].detach().logit()
    for window in range(4):
        which = torch.full((6,), window)
        absent = Absent(
            torch.zeros(6, dtype=torch.long), torch.arange(6), windows.outside(which), window=which
        )
        rows = bound.rows(absent)
        assert torch.equal(torch.where(absent.keep, rows, 0), torch.where(absent.keep, x, 0))
        right = own - net(rows).softmax(1)[:, 1].mean().detach().logit()
        where = windows.slices(window)
        assert float((found.attribution[(0, 0, *where)] - right).abs().max()) < 1e-9
    assert found.standard_error is not None


def test_fills_have_the_conditional_distribution_of_their_rim():
    """Samples of a known normal field: fills follow the regression on the rim, with the rest as spread."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(5.0, dtype=torch.float64)
    kernel = torch.exp(-((axis[:, None] - axis[None]) ** 2) / 8) + 0.01 * torch.eye(5).double()
    root = torch.linalg.cholesky(torch.kron(kernel, kernel))
    field = (torch.randn(6000, 25, generator=generator, dtype=torch.float64) @ root.T).view(-1, 1, 5, 5)
    data = 0.5 + 0.02 * field
    x, net = data[:1], nn.Sequential(nn.Flatten(), nn.Linear(25, 2, dtype=torch.float64))
    problem = problem_of_grey(net, x)
    windows = windows_of(x, 1, 1)
    bound = PatchGaussian(samples=data, rim=2, draws=4000).bind(problem, windows)
    which = torch.full((4000,), 12)
    absent = Absent(torch.zeros_like(which), torch.arange(4000), windows.outside(which), window=which)
    fills = bound.rows(absent)[:, 0, 2, 2]
    marginal = 0.02 * float(kernel[2, 2])
    rest = [i for i in range(25) if i != 12]
    seen = data.flatten(1)
    share = 25 / 6025  # of the covariance is shrunk: .4 %, next to which the true spread of 2 % is small
    covariance = (1 - share) * seen.T.cov()
    covariance += (share + 1e-6) * seen.var(0).mean() * torch.eye(25).double()
    slope = torch.linalg.solve(covariance[rest][:, rest], covariance[rest, 12])
    mean = seen.mean(0)[12] + slope @ (seen[0, rest] - seen.mean(0)[rest])
    spread = (covariance[12, 12] - slope @ covariance[rest, 12]).sqrt()
    assert abs(float(fills.mean() - mean)) < 0.1 * float(spread)  # 6 standard errors
    assert float(fills.std() / spread) == pytest.approx(1, abs=0.05)
    assert float(fills.std()) < 0.15 * marginal


def problem_of_grey(net, x):
    from abe.engines.runtime.evaluator import Evaluator
    from abe.engines.runtime.request import pose
    from abe.task.base import Context, Lifted

    task = abe.image_task(net, channels=1, output_kind="logits")
    return pose(Evaluator(task, execution="model"), Lifted(x, Context(), []), 1)


def test_a_window_of_one_colour_is_filled_with_it():
    x = torch.full((1, *nets.SHAPE), 0.4, dtype=torch.float64)
    found = run(nets.Smooth(), x, "pdiff", size=2, samples=3)
    assert float(found.attribution.abs().max()) < 1e-3


def test_prediction_difference_needs_classes_and_space():
    with pytest.raises(AbeError) as caught:
        abe.explain(
            abe.image_task(nets.Linear(), output_kind="regression"),
            samples(1),
            "pdiff",
            target=1,
            progress=False,
        )
    assert caught.value.code is Code.UNSUPPORTED


# ---------------------------------------------------------------- RISE


def test_rise_of_a_constant_score_is_that_constant():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.tensor(2.5, dtype=torch.float64))

        def forward(self, x):
            return self.one.expand(len(x), 2)

    x = samples(2)
    found = run(Constant(), x, "rise", evaluations=50)
    torch.testing.assert_close(found.attribution, torch.full_like(x, 2.5), rtol=1e-12, atol=0)
    assert float(found.standard_error.max()) < 1e-6
    published = run(Constant(), x, "rise", evaluations=50, variant="published")
    assert float((published.attribution - 2.5).abs().max()) > 0.1


def test_rise_is_unbiased_and_its_errors_are_right():
    x, net = samples(1).expand(200, -1, -1, -1).clone(), nets.Smooth()
    for variant in ("corrected", "published"):
        found = run(net, x, "rise", evaluations=60, cells=3, variant=variant)
        long = run(net, x[:1], "rise", evaluations=12_000, cells=3, variant=variant).attribution
        seen, error = found.attribution[:, 0], found.standard_error[:, 0]
        assert float(((seen.mean(0) - long[0, 0]).abs() / (seen.std(0) / 200**0.5)).max()) < 5
        covered = ((seen - long[0, 0]).abs() < 1.96 * error).double().mean()
        assert 0.88 < float(covered) < 0.985


def test_rise_needs_positions():
    task = abe.Task(model=nn.Linear(4, 2), modality="tabular", lifter=_as_is)
    with pytest.raises(AbeError) as caught:
        abe.explain(task, torch.rand(2, 4), "rise", progress=False)
    assert caught.value.code is Code.UNSUPPORTED
    found = abe.explain(task, torch.rand(2, 4), "shapley", progress=False)
    assert float(found.residual.abs().max()) < 1e-4


def _as_is(task, raw):
    from abe.task.base import Context, Lifted

    return Lifted(raw, Context(), [str(i) for i in range(len(raw))])


# ---------------------------------------------------------------- causal effects


def test_the_causal_effect_of_a_linear_score_needs_no_average():
    x, net = samples(2), nets.Linear()
    found = run(net, x, "ace", units="element", reference=0.25, samples=3)
    right = net.weight[1].detach() * (x - 0.25).flatten(1)
    torch.testing.assert_close(found.attribution.flatten(1), right, rtol=1e-9, atol=1e-12)
    assert float(found.standard_error.max()) < 1e-12


def test_the_causal_effect_averages_over_the_others():
    """s = u v with v from a background: E[s | do(u)] − E[s | do(u = 0)] = u · mean v."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x):
            flat = x.flatten(1)
            s = flat[:, 0] * flat[:, 1] * self.one
            return torch.stack([torch.zeros_like(s), s], 1)

    x = samples(1)
    background = samples(8, seed=4)
    first = (torch.arange(108).view(1, 3, 6, 6) > 0).long()
    how = {"units": ("regions", {"regions": first}), "background": background, "samples": 4000}
    found = run(Product(), x, "ace", reference="zero", **how)
    right = x.flatten()[0] * background.flatten(1)[:, 1].mean()
    error = found.standard_error.flatten()[0]
    assert abs(float(found.attribution.flatten()[0] - right)) < 4 * float(error)
    assert float(error) < 0.01
    against = run(Product(), x, "ace", **how)
    mean = background.flatten(1)[:, 0].mean()
    right = (x.flatten()[0] - mean) * background.flatten(1)[:, 1].mean()
    assert abs(float(against.attribution.flatten()[0] - right)) < 5 * float(
        against.standard_error.flatten()[0]
    )


# ---------------------------------------------------------------- values of the loss


def test_the_loss_is_explained_through_the_mean_probability():
    """All coalitions by hand: log of the probability averaged over the background."""
    from abe.engines.removal import set_functions

    x, net, background = samples(1), nets.Smooth(scale=1.0), samples(3, seed=6)
    found = run(net, x, "loss_shap", units=("grid", {"n": 2}), removal=background, target=3)
    v = torch.zeros(16, dtype=torch.float64)
    for code in range(16):
        keep = torch.zeros(6, 6, dtype=torch.bool)
        for i in range(4):
            if code >> i & 1:
                keep[3 * (i // 2) : 3 * (i // 2) + 3, 3 * (i % 2) : 3 * (i % 2) + 3] = True
        rows = torch.where(keep, x, background)
        v[code] = net(rows).softmax(1)[:, 3].mean().log().detach()
    right = set_functions.shapley(v)
    torch.testing.assert_close(found.diagnostics["unit_values"][0], right, rtol=1e-9, atol=1e-10)
    assert float(found.residual.abs().max()) < 1e-9
    plain = run(net, x, "shapley", units=("grid", {"n": 2}), removal="zero", objective="loss", target=3)
    fixed = run(net, x, "loss_shap", units=("grid", {"n": 2}), removal="zero", target=3)
    torch.testing.assert_close(plain.attribution, fixed.attribution, rtol=1e-7, atol=1e-9)


def test_sage_finds_the_value_of_units_over_a_data_set_and_stops_when_it_has():
    from abe.engines.removal import set_functions

    net, data = nets.Smooth(scale=1.0).eval(), samples(6, seed=7)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    how = {"data": data, "labels": labels, "units": ("grid", {"n": 2}), "removal": 0.5}
    found = run(net, samples(2), "sage", tolerance=0.05, **how)
    v = torch.zeros(16, dtype=torch.float64)
    for code in range(16):
        keep = torch.zeros(6, 6, dtype=torch.bool)
        for i in range(4):
            if code >> i & 1:
                keep[3 * (i // 2) : 3 * (i // 2) + 3, 3 * (i % 2) : 3 * (i % 2) + 3] = True
        rows = torch.where(keep, data, torch.full_like(data, 0.5))
        v[code] = net(rows).log_softmax(1)[torch.arange(6), labels].mean().detach()
    right = set_functions.shapley(v)
    cells, error = (
        found.attribution[0, 0, ::3, ::3].flatten() * 27,
        found.standard_error[0, 0, ::3, ::3].flatten() * 27,
    )
    assert float(((cells - right).abs() / error).max()) < 4
    assert torch.equal(found.attribution[0], found.attribution[1])
    assert found.warnings == []
    assert found.cost.forward_rows < 5_000
    short = run(net, samples(2), "sage", tolerance=0.001, evaluations=200, **how)
    assert any(Code.TOLERANCE_NOT_REACHED in w for w in short.warnings)
    assert short.cost.forward_rows <= 200 + 2
    predicted = run(net, samples(2), "sage", **{**how, "labels": None})
    named = run(net, samples(2), "sage", **{**how, "labels": net(data).argmax(1)})
    torch.testing.assert_close(predicted.attribution, named.attribution)


def test_a_reference_for_every_sample_reaches_its_own_rows():
    x, net = samples(2), nets.Smooth()
    references = samples(2, seed=8)
    together = run(net, x, "shapley", removal=Given(reference=references)).attribution
    alone = [
        run(net, x[i : i + 1], "shapley", removal=Given(reference=references[i : i + 1])) for i in range(2)
    ]
    torch.testing.assert_close(
        together, torch.cat([one.attribution for one in alone]), rtol=1e-10, atol=1e-12
    )


def test_windows_of_unequal_sides():
    """Equal to covering each window by hand and averaging what the score loses."""
    net, x = nets.Smooth(), samples(2)
    task, target = task_of(net), torch.tensor([0, 1])
    how = {"target": target, "progress": False}
    whole = abe.explain(task, x, "gradient", **how).score
    for per_channel in (False, True):
        total, times = torch.zeros_like(x), torch.zeros_like(x)
        channels = [slice(c, c + 1) for c in range(x.shape[1])] if per_channel else [slice(None)]
        for channel in channels:
            for r in range(0, x.shape[2] - 3 + 2, 2)[: -(-(x.shape[2] - 3) // 2) + 1]:
                for c in range(0, x.shape[3], 1)[: x.shape[3] - 2 + 1]:
                    covered = x.clone()
                    covered[:, channel, r : r + 3, c : c + 2] = 0
                    lost = whole - abe.explain(task, covered, "gradient", **how).score
                    total[:, channel, r : r + 3, c : c + 2] += lost[:, None, None, None].to(x)
                    times[:, channel, r : r + 3, c : c + 2] += 1
        found = abe.explain(
            task,
            x,
            "occlusion_patch",
            size=(3, 2),
            stride=(2, 1),
            removal="zero",
            per_channel=per_channel,
            **how,
        )
        torch.testing.assert_close(found.attribution, total / times, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "code"),
    [
        ((3, 2, 1), None, Code.UNITS),
        ((3,), None, Code.UNITS),
        ((2, 2), (1, 3), Code.UNITS),
        ((2, 99), 1, Code.UNITS),
        ((2, 0), 1, Code.BAD_PARAMETER),
        ((2, 1.5), 1, Code.BAD_PARAMETER),
    ],
)
def test_windows_of_other_axes_are_refused(size, stride, code):
    with pytest.raises((AbeError, TypeError)) as caught:
        abe.explain(
            task_of(nets.Smooth()), samples(1), "occlusion_patch", size=size, stride=stride, progress=False
        )
    assert getattr(caught.value, "code", code) is code
