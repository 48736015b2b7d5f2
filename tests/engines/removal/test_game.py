"""Games of units: one cache, budgets, equivalences, errors of estimators, memory, and what is refused."""

import pytest
import torch
from tests.engines.removal.common import Played, explained, random_game, values
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import abe
from abe.baselines import Given
from abe.engines.removal import set_functions
from abe.engines.removal.removals import (
    Absent,
    Conditional,
    Marginal,
    Replace,
)
from abe.engines.removal.segments import segments_of, windows_of
from abe.errors import AbeError, Code
from abe.registry import removals, summaries
from abe.spec import value
from abe.testing import nets, problem_of, samples, task_of
from abe.types import Card
from abe.units import Grid, Patch, Regions, Union

EXACT = 1e-9
SAMPLED = {
    "permutation": ("shapley", {"estimator": "permutation"}),
    "kernel": ("kernel_shap", {}),
    "owen": ("owen", {"groups": ((0, 1, 2, 3, 4, 5, 6, 7), (8, 9))}),
    "banzhaf": ("banzhaf", {}),
    "mean when included": ("removal", {"summary": "mean_when_included"}),
}


def truth(name: str, v: Tensor) -> Tensor:
    if name == "banzhaf":
        return set_functions.banzhaf(v)
    if name == "mean when included":
        inside = set_functions.coalitions(10)
        return torch.stack([v[inside[:, i]].mean() for i in range(10)])
    if name == "owen":
        return values(explained(v, "owen", groups=SAMPLED["owen"][1]["groups"], evaluations=2000))[0]
    return set_functions.shapley(v)


# ---------------------------------------------------------------- one cache


def test_summaries_of_one_run_share_every_evaluation():
    v = random_game(6)
    net = Played(v)
    task = abe.image_task(net, channels=1, output_kind="logits")
    wanted = ["shapley", "banzhaf", "remove_individual", "include_individual", ("interactions", {"order": 3})]
    x = torch.ones((3, 1, 1, 6), dtype=torch.float64)
    found = abe.explain_game(task, x, wanted, units="pixel", target=1, execution="model", progress=False)
    assert net.rows == found[0].cost.forward_rows == 3 * 64
    assert found[0].diagnostics["evaluations"].tolist() == [63, 63, 63]
    alone = [explained(v, "removal", copies=3, summary=summary) for summary in wanted]
    for together, one in zip(found, alone, strict=True):
        assert together.method == "removal"
        assert torch.equal(together.attribution, one.attribution)
    right = v[-1] - torch.stack([v[63 - 2**i] for i in range(6)])
    assert float((values(found[2])[0] - right).abs().max()) < EXACT
    assert float((values(found[3])[0] - (v[[1, 2, 4, 8, 16, 32]] - v[0])).abs().max()) < EXACT


@pytest.mark.parametrize("name", SAMPLED)
def test_budgets_are_kept_and_too_small_ones_say_what_is_needed(name):
    method, params = SAMPLED[name]
    v = random_game(10)
    with pytest.raises(AbeError) as caught:
        explained(v, method, evaluations=1, **params)
    assert caught.value.code is Code.EVALUATIONS
    needed = int(str(caught.value.expected).split()[-1])
    for budget in (needed, needed + 7, 200):
        found = explained(v, method, evaluations=budget, **params)
        assert found.cost.forward_rows <= budget + 1
        assert found.standard_error is not None
        assert bool(torch.isfinite(found.standard_error).all())
    with pytest.raises(AbeError, match=f"at least {needed}"):
        explained(v, method, evaluations=needed - 1, **params)


def test_budgets_count_the_completions_of_every_coalition():
    background = samples(4, seed=3)
    x, net = samples(1), nets.Smooth()
    how = {"units": ("grid", {"n": 2}), "removal": background, "target": 1, "progress": False}
    found = abe.explain(task_of(net), x, "shapley", evaluations=4 * 15, execution="model", **how)
    assert found.cost.forward_rows == 1 + 4 * 15
    with pytest.raises(AbeError, match="at least 52"):
        abe.explain(task_of(net), x, "shapley", evaluations=51, estimator="permutation", **how)


# ---------------------------------------------------------------- equivalences


def test_estimators_that_see_all_coalitions_are_exact():
    v = random_game(8)
    shapley = set_functions.shapley(v)
    for method, params in (
        ("shapley", {}),
        ("shapley", {"estimator": "exact"}),
        ("kernel_shap", {"evaluations": 255}),
        ("owen", {"groups": 8}),
        ("owen", {"groups": tuple((i,) for i in range(8))}),
        ("owen", {"groups": 1}),
        ("interactions", {"index": "stii", "order": 2}),
        ("interactions", {"index": "moebius", "order": 8}),
    ):
        found = explained(v, method, **params)
        assert float((values(found)[0] - shapley).abs().max()) < EXACT, (method, params)
        assert found.standard_error is None
    assert float((values(explained(v, "banzhaf"))[0] - set_functions.banzhaf(v)).abs().max()) < EXACT


def test_the_owen_value_is_a_game_between_groups_and_games_within():
    """Written out over the orders that keep groups together."""
    from itertools import permutations

    v, groups = random_game(5, seed=4), ((0, 3), (1, 2, 4))
    found = values(explained(v, "owen", groups=groups))[0]
    total, count = torch.zeros(5, dtype=torch.float64), 0
    for order in permutations(groups):
        for inner in ((a, b) for a in permutations(order[0]) for b in permutations(order[1])):
            code = 0
            for i in (*inner[0], *inner[1]):
                total[i] += v[code | 1 << i] - v[code]
                code |= 1 << i
            count += 1
    assert float((found - total / count).abs().max()) < EXACT


def test_exact_shapley_of_twelve_units_through_a_model():
    v = random_game(12)
    found = explained(v, "shapley", max_units=12)
    assert found.cost.forward_rows == 4096
    assert float((values(found)[0] - set_functions.shapley(v)).abs().max()) < EXACT
    assert float(found.residual.abs().max()) < EXACT


def test_occlusion_is_the_sum_of_all_effects_of_a_unit():
    v = random_game(6)
    effects, inside = set_functions.dividends(v), set_functions.coalitions(6)
    right = torch.stack([effects[inside[:, i]].sum() for i in range(6)])
    assert float((values(explained(v, "occlusion"))[0] - right).abs().max()) < EXACT


def test_orders_are_unbiased_walks_of_marginal_contributions():
    v = random_game(4)
    found = explained(v, "shapley", estimator="permutation", evaluations=13)
    assert found.cost.forward_rows <= 14
    assert float(found.residual.abs().max()) < EXACT


# ---------------------------------------------------------------- errors of estimators


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_summaries_are_unbiased_and_their_errors_are_right(name):
    """250 copies with their own draws: the mean is within 4 errors, and 95 % intervals cover about 95 %."""
    method, params = SAMPLED[name]
    v, copies = random_game(10, seed=2), 250
    found = explained(v, method, copies=copies, evaluations=300, **params)
    right, seen = truth(name, v), values(found)
    spread = seen.std(0)
    assert float(spread.min()) > 0.01
    bias = (seen.mean(0) - right).abs() / (spread / copies**0.5)
    assert float(bias.max()) < (6 if name == "kernel" else 4)  # a ratio: consistent, nearly unbiased
    error = found.standard_error.flatten(1)
    covered = ((seen - right).abs() < 1.96 * error).double().mean()
    assert 0.90 < float(covered) < 0.985
    assert float((error.square().mean(0).sqrt() / spread - 1).abs().max()) < 0.35


def test_errors_of_completions_are_those_of_the_mean_over_them():
    """With all coalitions only the background is drawn: the error is that of the mean over its samples."""
    x, net, background = samples(1), nets.Smooth(), samples(6, seed=5)
    how = {"units": ("grid", {"n": 2}), "target": 1, "execution": "model", "progress": False}
    found = abe.explain(task_of(net), x, "shapley", removal=background, **how)
    each = torch.cat(
        [
            abe.explain(task_of(net), x, "shapley", removal=Given(reference=b), **how).attribution
            for b in background[:, None]
        ]
    )
    torch.testing.assert_close(found.attribution[0], each.mean(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.standard_error[0], each.std(0) / 6**0.5, rtol=1e-9, atol=1e-12)
    assert float(found.residual.abs().max()) < EXACT


# ---------------------------------------------------------------- removals


def test_nearest_background_samples_complete_what_stays():
    x = samples(1)
    near, far = x + 0.01, 1 - x
    background = torch.cat([far, near, far.flip(2)])
    problem = problem_of(nets.Smooth(), x)
    segments = segments_of(Grid(n=2), x)
    bound = Conditional(samples=background, nearest=1).bind(problem, segments)
    coalition = torch.tensor([[True, False, True, False]])
    zero = torch.zeros(1, dtype=torch.long)
    keep = segments.keep(zero, coalition)
    row = bound.rows(Absent(zero, zero, keep, coalition))
    assert torch.equal(row, torch.where(keep, x, near))


def test_segment_means_and_marginals_fill_what_is_absent():
    x = samples(2)
    problem, segments = problem_of(nets.Smooth(), x), segments_of(Grid(n=2), x)
    none = torch.zeros((2, 4), dtype=torch.bool)
    owner, draw = torch.tensor([0, 1]), torch.tensor([1, 0])
    absent = Absent(owner, draw, segments.keep(owner, none), none)
    means = removals.resolve("segment_mean").bind(problem, segments).rows(absent)
    torch.testing.assert_close(means[0, 1, :3, :3], x[0, 1, :3, :3].mean().expand(3, 3))
    background = samples(2, seed=9)
    assert torch.equal(Marginal(samples=background).bind(problem, segments).rows(absent), background[draw])


def test_a_random_baseline_is_the_same_for_every_coalition():
    """Otherwise units that nothing reads would get the noise of their completions."""
    net = nets.Masked(nets.Smooth(), (torch.arange(6) >= 3).double().expand(nets.SHAPE))
    units = ("grid", {"n": 2})
    found = abe.explain(
        task_of(net), samples(1), "shapley", units=units, removal="uniform", target=1, progress=False
    )
    assert float(found.attribution[..., :3].abs().max()) < 1e-15
    assert float(found.attribution[..., 3:].abs().min()) > 1e-6


@removals.register(Card(name="half_left", title="Half", summary="Half of it stays.", source="covert2021"))
@value
class HalfLeft:
    """Absent units keep half of their value."""

    def bind(self, problem, layout):
        return Replace(baseline=Given(reference=problem.x / 2)).bind(problem, layout)


@summaries.register(Card(name="first_gain", title="First", summary="Gain over nothing.", source="covert2021"))
@value
class FirstGain:
    """v({i}) − v(∅), by a user."""

    @property
    def complete(self) -> bool:
        return False

    def needs(self, u: int) -> int:
        return u + 1

    def coalitions(self, u: int, budget: int | None, stream: object) -> Tensor:
        return torch.cat([torch.zeros((1, u), dtype=torch.bool), torch.eye(u, dtype=torch.bool)])

    def summarise(self, evaluated):
        from abe.engines.removal.game import Summarised

        return Summarised((evaluated.values[1:] - evaluated.empty).mean(1))


def test_a_removal_and_a_summary_are_one_registered_value_each():
    x, net = samples(2), nets.Linear(seed=1).double()
    found = abe.explain(
        task_of(net),
        x,
        "removal",
        summary="first_gain",
        removal="half_left",
        units="element",
        target=1,
        progress=False,
    )
    torch.testing.assert_close(found.attribution.flatten(1), net.weight[1].detach() * x.flatten(1) / 2)
    assert "half_left" in removals.names()


# ---------------------------------------------------------------- units and windows


def test_units_of_ones_own_number_or_mask_every_position():
    x = samples(2)
    numbers = torch.arange(36).view(6, 6) // 18
    masks = torch.stack([numbers == 0, numbers == 1])
    both = [segments_of(Regions(regions=r), x).labels for r in (numbers, masks, numbers.expand(2, 1, 6, 6))]
    assert torch.equal(both[0], both[1])
    assert torch.equal(both[0], both[2])
    tabular = torch.rand(2, 4)
    assert segments_of(Regions(regions=torch.tensor([0, 0, 1, 1])), tabular).counts == (2, 2)
    assert segments_of(Grid(n=2), tabular).counts == (4, 4)
    assert segments_of(Grid(n=3), torch.rand(1, 2, 30)).counts == (9,)


BAD_UNITS = {
    "negative": (Regions(regions=torch.arange(36).view(6, 6) - 1), Code.UNITS),
    "other shape": (Regions(regions=torch.zeros(5, 6, dtype=torch.long)), Code.UNITS),
    "overlap": (Regions(regions=torch.ones((2, 6, 6), dtype=torch.bool)), Code.UNITS),
    "holes": (Regions(regions=torch.zeros((2, 6, 6), dtype=torch.bool)), Code.UNITS),
    "no partition": (Union(), Code.UNSUPPORTED),
}


@pytest.mark.parametrize("name", BAD_UNITS)
@pytest.mark.parametrize("method", ["shapley", "occlusion", "ace", "lime", "c_lime"])
def test_units_that_do_not_tile_the_input_are_refused(method, name):
    unit, code = BAD_UNITS[name]
    with pytest.raises(AbeError) as caught:
        abe.explain(task_of(nets.Smooth()), samples(1), method, units=unit, progress=False)
    assert caught.value.code is code


@pytest.mark.parametrize(("size", "stride"), [(7, 1), (2, 3)])
def test_windows_that_do_not_cover_the_input_are_refused(size, stride):
    with pytest.raises(AbeError) as caught:
        abe.explain(
            task_of(nets.Smooth()), samples(1), "occlusion_patch", size=size, stride=stride, progress=False
        )
    assert caught.value.code is Code.UNITS


def test_windows_reach_the_border_and_average_where_they_overlap():
    windows = windows_of(torch.zeros(1, 1, 5, 7), 3, 2)
    assert len(windows.starts) == 2 * 3
    count = sum((~windows.outside(torch.tensor([k]))).long() for k in range(6))
    assert int(count.min()) == 1
    ones = windows.average(torch.arange(6.0, dtype=torch.float64)[None], torch.zeros(1, 1, 5, 7).double())
    total = sum((~windows.outside(torch.tensor([k]))).double() * k for k in range(6))
    torch.testing.assert_close(ones, total / count)


# ---------------------------------------------------------------- refused


BACKGROUNDS = {
    "one sample": samples(1),
    "wrong shape": torch.rand(3, 3, 5, 5, dtype=torch.float64),
    "not finite": samples(2) / 0,
    "integers": torch.ones((2, 3, 6, 6), dtype=torch.long),
}


@pytest.mark.parametrize("name", BACKGROUNDS)
@pytest.mark.parametrize("method", ["shapley", "occlusion", "banzhaf", "lime"])
def test_unusable_backgrounds_are_refused(method, name):
    with pytest.raises(AbeError) as caught:
        abe.explain(task_of(nets.Smooth()), samples(1), method, removal=BACKGROUNDS[name], progress=False)
    assert caught.value.code is Code.BASELINE_SHAPE


@pytest.mark.parametrize("name", ["one sample", "wrong shape"])
def test_unusable_backgrounds_are_refused_where_they_have_another_name(name):
    for method, parameter in (("ace", "background"), ("pdiff", "background"), ("sage", "data")):
        with pytest.raises(AbeError) as caught:
            abe.explain(
                task_of(nets.Smooth()), samples(1), method, progress=False, **{parameter: BACKGROUNDS[name]}
            )
        assert caught.value.code in (Code.BASELINE_SHAPE, Code.BAD_PARAMETER)


BAD_SETTINGS = [
    ("shapley", {"estimator": "exact", "units": "pixel"}, Code.EVALUATIONS),
    ("shapley", {"max_units": 17}, Code.BAD_PARAMETER),
    ("shapley", {"units": ("grid", {"n": 0})}, Code.BAD_PARAMETER),
    ("shapley", {"evaluations": 0}, Code.BAD_PARAMETER),
    ("shapley", {"evaluations": 32}, Code.EVALUATIONS),
    ("owen", {"groups": ((0, 1), (3,))}, Code.BAD_PARAMETER),
    ("owen", {"groups": 0}, Code.BAD_PARAMETER),
    ("removal", {"summary": ("interactions", {"index": "sum"})}, Code.BAD_PARAMETER),
    ("interactions", {"evaluations": 100}, Code.EVALUATIONS),
    ("occlusion", {"evaluations": 35}, Code.EVALUATIONS),
    ("occlusion_patch", {"evaluations": 35}, Code.EVALUATIONS),
    ("occlusion_patch", {"removal": "segment_mean"}, Code.UNSUPPORTED),
    ("rise", {"evaluations": 1}, Code.EVALUATIONS),
    ("rise", {"p": 1.0}, Code.BAD_PARAMETER),
    ("ace", {"evaluations": 10}, Code.EVALUATIONS),
    ("ace", {"background": "zero"}, Code.BAD_PARAMETER),
    ("lime", {"evaluations": 37}, Code.EVALUATIONS),
    ("lime", {"width": 0.0}, Code.BAD_PARAMETER),
    ("c_lime", {"evaluations": 37}, Code.EVALUATIONS),
    ("s_lime", {"level": 0.7}, Code.BAD_PARAMETER),
    ("optilime", {"adherence": 1.5}, Code.BAD_PARAMETER),
    ("baylime", {"precision": -1.0}, Code.BAD_PARAMETER),
    ("removal", {"summary": "median"}, Code.UNKNOWN_NAME),
    ("removal", {"summary": "banzhaf", "removal": "erase"}, Code.UNKNOWN_NAME),
    ("sage", {"data": samples(4), "evaluations": 30}, Code.EVALUATIONS),
    ("sage", {"data": samples(4), "units": ("superpixel", {"n": 4})}, Code.UNSUPPORTED),
    ("sage", {"data": samples(4), "labels": torch.zeros(3, dtype=torch.long)}, Code.TARGET_TYPE),
]


@pytest.mark.parametrize(("method", "params", "code"), BAD_SETTINGS)
def test_unusable_settings_are_refused(method, params, code):
    with pytest.raises(AbeError) as caught:
        abe.explain(task_of(nets.Smooth()), samples(1), method, progress=False, **params)
    assert caught.value.code is code


def test_the_cost_is_said_before_many_units_are_evaluated_exhaustively():
    with pytest.raises(AbeError, match="65535 evaluations") as caught:
        abe.explain(
            task_of(nets.Smooth()),
            samples(1),
            "interactions",
            units=("grid", {"n": 4}),
            progress=False,
        )
    assert "max_units=16" in str(caught.value.fix)


# ---------------------------------------------------------------- memory


class Largest(TorchDispatchMode):
    """The most bytes that any tensor had."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.nbytes)
        return out


@pytest.mark.parametrize(
    ("method", "few", "many"),
    [
        ("rise", {"evaluations": 64}, {"evaluations": 640}),
        ("lime", {"evaluations": 64}, {"evaluations": 640}),
        ("kernel_shap", {"evaluations": 64}, {"evaluations": 510}),
        ("shapley", {"removal": samples(2, shape=(3, 32, 32))}, {"removal": samples(16, shape=(3, 32, 32))}),
        ("occlusion", {"units": ("patch", {"size": 8})}, {"units": ("patch", {"size": 2})}),
        ("ace", {"samples": 4}, {"samples": 40}),
    ],
)
def test_no_tensor_grows_with_masks_or_background_samples(method, few, many):
    """Up to the background itself; rows are made chunk by chunk."""
    net = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten(), torch.nn.Linear(12, 2)).double()
    x, seen = samples(1, shape=(3, 32, 32)), []
    for params in (few, many):
        with Largest() as largest:
            abe.explain(
                task_of(net), x, method, chunk=8, target=1, execution="model", progress=False, **params
            )
        seen.append(largest.bytes)
    given = max((p.nbytes for p in many.values() if isinstance(p, Tensor)), default=0)
    table = 49 * 8 * many.get("evaluations", 0) + 49 * 8  # which cells were there: 49 numbers a row, no image
    assert seen[1] <= max(seen[0], given, table, 8 * x.nbytes)


def test_patches_are_what_their_name_says():
    assert segments_of(Patch(size=3), samples(1)).counts == (4,)
