"""Masks and bottlenecks against slow forms from their definitions, known answers, and bad inputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.methods.common import miss
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import abe
from abe.baselines import Zero
from abe.engines.layers.find import activations, at_layer, find_layer
from abe.engines.mask.bottleneck import capacity
from abe.engines.mask.optimise import MaskOptimisation
from abe.engines.mask.optimisers import AdamStep, MomentumStep
from abe.engines.mask.parts import (
    CellGrid,
    FadeByBlur,
    FadeTo,
    ShiftRows,
    SmoothMaxGrid,
)
from abe.engines.mask.penalties import Removed, SortedArea
from abe.errors import Code, InputError, ModelError, SpecError
from abe.spec import value
from abe.testing import nets, samples, task_of
from abe.testing.bench import problem_of
from abe.testing.draws import RecordedDraws
from abe.testing.methods import METHOD_LAWS, check_method

TARGET = 1
EXACT = 1e-10


def explain(net: nn.Module, x: Tensor, method, **how) -> abe.Explanation:
    how = {"target": TARGET, "progress": False, "execution": "model", **how}
    task = abe.image_task(net, channels=x.shape[1], output_kind="logits")
    return abe.explain(task, x, method, **how)


def score(net: nn.Module, row: Tensor) -> Tensor:
    return net(row[None])[0, TARGET]


class Adding(nn.Module):
    """Score 1 is Σ weight ⊙ x, of one channel."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        total = (x * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(total), total], 1)


class Deep(nn.Module):
    """Convolutions in a row with a residual branch, so that some layers are bypassed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.late = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6 * 9, 5)
        self.spare = nn.Linear(2, 2)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(nets.weights(*p.shape, seed=i, scale=1.5))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = h + torch.tanh(self.branch(h))
        return self.head(F.softplus(self.late(h)).flatten(1))


# --- known answers --------------------------------------------------------------------------------


def test_the_best_mask_of_an_additive_score_removes_what_counts_and_nothing_else():
    """min Σ_i m_i c_i / C + λ (1 − m_i) / n: remove i exactly where its share is worth more than λ / n."""
    weight = torch.tensor([[[3.0, 0.0, -1.0], [0.05, 1.0, 0.0], [0.02, 0.0, 2.0]]], dtype=torch.float64)
    x = torch.ones(2, 1, 3, 3, dtype=torch.float64)
    x[1, 0, 2, 2] = 0.0
    found = explain(
        Adding(weight), x, "mp", baseline="zero", cells=3, variation=0.0, jitter=0, steps=200, sparsity=0.5
    )
    shares = weight * x / (weight * x).flatten(1).sum(1).view(-1, 1, 1, 1)
    best = (shares > 0.5 / 9).to(x)
    torch.testing.assert_close(found.attribution, best, rtol=0, atol=1e-9)


def test_the_share_makes_the_mask_independent_of_the_scale_of_the_score():
    net, x = nets.Smooth(), samples(2)
    small, large = (explain(nets.Combined(net, net, a, 0.0), x, "mp", steps=15) for a in (1e-3, 1e3))
    assert miss(small.attribution, large.attribution) < 1e-6


@pytest.mark.parametrize("area", [0.1, 0.25, 0.5])
def test_extremal_masks_keep_the_area_that_was_asked_for_where_the_evidence_is(area):
    side = 24
    weight = torch.zeros(1, side, side, dtype=torch.float64)
    weight[0, 4:10, 12:20] = 1.0
    x = torch.ones(1, 1, side, side, dtype=torch.float64)
    found = explain(Adding(weight), x, "ep", areas=(area,), baseline="zero", steps=100, flip=False)
    assert float(found.diagnostics["kept"]) == pytest.approx(area, abs=0.04)
    mask = found.attribution[0, 0]
    inside = float(mask[4:10, 12:20].mean())
    assert inside > 0.9
    if area < 0.5:  # of which half is all that can be kept twice as well
        assert inside > 2 * float(mask.mean())


def test_several_areas_are_the_mean_of_single_ones():
    net, x = nets.Smooth(), samples(2)
    each = [explain(net, x, "ep", areas=(a,), steps=20).attribution for a in (0.2, 0.6)]
    both = explain(net, x, "ep", areas=(0.2, 0.6), steps=20)
    assert miss(both.attribution, (each[0] + each[1]) / 2) < EXACT


def test_capacity_is_the_divergence_of_the_two_normals():
    generator = torch.Generator().manual_seed(0)
    gate, r, prior = (torch.rand(50, generator=generator, dtype=torch.float64) * 0.98 for _ in range(3))
    r = 4 * (r - 0.5)
    mean, std = 0.7, 1.9
    x = mean + std * r

    def passed(share: Tensor) -> Normal:
        return Normal(share * x + (1 - share) * mean, (1 - share) * std)

    plain = kl_divergence(passed(gate), Normal(torch.full_like(x, mean), torch.full_like(x, std)))
    torch.testing.assert_close(capacity(gate, r), plain, rtol=1e-10, atol=1e-12)
    against = kl_divergence(passed(gate), passed(gate * prior))
    torch.testing.assert_close(capacity(gate, r, prior), against, rtol=1e-10, atol=1e-12)


def test_a_bottleneck_shuts_what_the_score_does_not_read():
    mask = torch.zeros(nets.SHAPE, dtype=torch.float64)
    mask[:, :, 3:] = 1
    net = nets.Masked(Adding(mask * 2), mask)
    found = explain(net, samples(3), "iba", layer="input", sigma=0.0, beta=2.0, steps=60, samples=4)
    read, unread = found.attribution[..., 3:].abs().sum(), found.attribution[..., :3].abs().sum()
    assert unread < 0.02 * read
    torch.testing.assert_close(found.attribution.flatten(1).sum(1), found.diagnostics["bits"])


def test_more_expensive_information_is_used_less():
    net, x = Deep(), samples(2)
    bits = [explain(net, x, "iba", beta=b, steps=20).diagnostics["bits"] for b in (0.1, 10.0, 1000.0)]
    assert (bits[0] > bits[1]).all()
    assert (bits[1] > bits[2]).all()


# --- slow forms, step by step ---------------------------------------------------------------------


def adam(
    numbers: Tensor, gradients, rate: float, steps: int, *, clip: bool = False, eps: float = 1e-8
) -> Tensor:
    """The textbook loop, with torch's own optimiser."""
    leaf = numbers.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([leaf], lr=rate, eps=eps)
    for step in range(steps):
        optimiser.zero_grad()
        gradients(leaf, step).backward()
        optimiser.step()
        if clip:
            with torch.no_grad():
                leaf.clamp_(0, 1)
    return leaf.detach()


def test_meaningful_perturbation_step_by_step():
    net, x, draws, steps = nets.Smooth(), samples(2), RecordedDraws(), 6
    found = explain(
        net, x, "mp", baseline="mean", cells=4, steps=steps, jitter=1, draws=draws, ids=[7, 8], rate=0.05
    )
    shifts = draws.recorded["mask.shift"]
    for i, row in enumerate(x):
        reference = row.mean((1, 2), keepdim=True).expand_as(row)
        change = (score(net, row) - score(net, reference)).abs().detach()

        def loss(cells: Tensor, step: int, i=i, row=row, reference=reference, change=change) -> Tensor:
            mask = F.interpolate(cells, size=(6, 6), mode="bilinear", align_corners=False)
            seen = (mask * row + (1 - mask) * reference)[0]
            dy, dx = (int(s) - 1 for s in shifts[(7, 8)[i], step])
            ys, xs = ((torch.arange(6) + d).clamp(0, 5) for d in (dy, dx))
            seen = seen[:, ys][:, :, xs]
            slopes = [(mask[:, :, 1:] - mask[:, :, :-1]), (mask[:, :, :, 1:] - mask[:, :, :, :-1])]
            variation = sum(((6 / 4 * s).abs() ** 3).mean() for s in slopes)  # per cell, of which there are 4
            return score(net, seen) / change + 0.08 * (1 - mask).mean() + 8 * variation

        cells = adam(
            torch.ones(1, 1, 4, 4, dtype=torch.float64), loss, 0.05, steps, clip=True, eps=1e-8 + 0.1 / 16
        )
        mask = F.interpolate(cells, size=(6, 6), mode="bilinear", align_corners=False)[0]
        assert miss(found.attribution[i : i + 1].sum(1), 1 - mask) < EXACT


def test_extremal_perturbation_step_by_step():
    """Six by six numbers on six by six positions: nothing is interpolated, so this is the formula."""
    net, x, steps, sigma, area = nets.Smooth(), samples(1), 5, 0.3, 0.3
    engine = abe.method(
        "ep",
        areas=(area,),
        sigma=sigma,
        steps=steps,
        baseline="mean",
        flip=False,
        rate=0.2 / 36,
        weight=3.0,
        growth=2.0,
    ).engine
    found = engine.optimise(problem_of(net, x), score(net, x[0]).detach()[None])
    place = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij"), -1).view(-1, 2)
    distance = torch.cdist(place.double(), place.double()) / (6 * sigma)
    kernel = torch.exp(-2 * (distance - 0.5).clamp_min(0) ** 2)
    reach = math.ceil(1.75 * 6 * sigma)
    near = ((place[:, None] - place[None]).abs() <= reach).all(-1)
    reference = x[0].mean((1, 2), keepdim=True)
    change = (score(net, x[0]) - score(net, reference.expand_as(x[0]))).abs().detach()
    wanted = torch.zeros(36, dtype=torch.float64)
    wanted[36 - round(area * 36) :] = 1

    def mask_of(p: Tensor) -> Tensor:
        """smax over v, for each u by itself; outside the image there are zeros."""
        out = []
        for u in range(36):
            f = kernel[u][near[u]] * p[near[u]]
            outside = torch.zeros((2 * min(reach, 5) + 1) ** 2 - len(f), dtype=torch.float64)
            f = torch.cat([f, outside])
            weight = torch.exp(20 * f)
            out.append((f * weight).sum() / weight.sum())
        return torch.stack(out)

    p, speed = torch.ones(36, dtype=torch.float64), None
    for step in range(steps):
        leaf = p.clone().requires_grad_(True)
        mask = mask_of(leaf)
        seen = mask.view(1, 6, 6) * x[0] + (1 - mask.view(1, 6, 6)) * reference
        order = mask.detach().round(decimals=14).argsort(stable=True)  # mirrored places differ by rounding
        miss_ = ((mask[order] - wanted) ** 2).mean()
        loss = -score(net, seen) / change + 3.0 * 2 ** (step / steps) * miss_
        (g,) = torch.autograd.grad(loss, leaf)
        speed = g if speed is None else 0.9 * speed + 0.1 * g
        p = (p - 0.2 * speed).clamp(0, 1)
    assert miss(found.mask[:, 0].flatten(1), mask_of(p)[None]) < EXACT


def gaussian(maps: Tensor, sigma: float) -> Tensor:
    half = round(2 * sigma)
    at = torch.arange(-half, half + 1, dtype=torch.float64)
    weight = torch.exp(-(at**2) / (2 * sigma**2))
    weight = weight / weight.sum()
    kernel = (weight[:, None] * weight[None])[None, None].expand(len(maps), 1, -1, -1)
    padded = F.pad(maps[None], (half, half, half, half), mode="reflect")
    return F.conv2d(padded, kernel, groups=len(maps))[0]


@pytest.mark.parametrize("fitted", [False, True])
def test_iba_step_by_step(fitted):
    net, x, draws, steps, k, beta = Deep(), samples(2), RecordedDraws(), 4, 3, 5.0
    statistics = abe.fit(task_of(net), samples(20, seed=4), "iba", layer="stem") if fitted else None
    found = explain(
        net, x, "iba", layer="stem", steps=steps, samples=k, beta=beta, draws=draws, ids=[3, 4],
        fitted=statistics,
    )  # fmt: skip
    noise = draws.recorded["bottleneck.stem"]
    for i, row in enumerate(x):
        r = net.stem(row[None])[0].detach()
        mean, std = r.mean((1, 2), keepdim=True), r.std((1, 2), keepdim=True, correction=0)
        if fitted:
            seen = net.stem(samples(20, seed=4)).detach()
            mean, std = seen.mean(0).float().double(), seen.std(0).float().double()

        def rest(z: Tensor) -> Tensor:
            h = z + torch.tanh(net.branch(z))
            return net.head(F.softplus(net.late(h)).flatten(1))[:, TARGET]

        def gate(alpha: Tensor) -> Tensor:
            return gaussian(torch.sigmoid(alpha), 1.0)

        def divergence(alpha: Tensor, r=r, mean=mean, std=std) -> Tensor:
            g = gate(alpha)
            z = Normal(g * r + (1 - g) * mean, (1 - g) * std)
            return kl_divergence(z, Normal(mean.expand_as(r), std.expand_as(r)))

        def loss(alpha: Tensor, step: int, i=i, r=r, mean=mean, std=std) -> Tensor:
            drawn = torch.stack([noise[(3, 4)[i], step * k + j] for j in range(k)]).double()
            g = gate(alpha)
            z = g * r + (1 - g) * (mean + std * drawn)
            return -rest(z).mean() + beta * divergence(alpha).mean()

        alpha = adam(torch.full_like(r, 5.0), loss, 1.0, steps)
        bits = divergence(alpha).sum(0) / math.log(2)
        assert miss(found.attribution[i : i + 1].sum(1), bits[None]) < (1e-6 if fitted else EXACT)


class Towers(nn.Module):
    """Cosine similarity of an image tower and a tower of token numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.words = nn.Embedding(11, 4)
        self.mix = nn.Linear(4, 4)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(nets.weights(*p.shape, seed=i, scale=2.0))
        self.double()

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        seen = self.picture(image).tanh().flatten(2).mean(2)
        read = self.mix(self.words(text)).tanh().mean(1)
        return F.cosine_similarity(seen, read, dim=1)[:, None]


def test_m2ib_step_by_step_in_both_towers():
    net, x, draws, steps, k = Towers(), samples(2), RecordedDraws(), 4, 3
    text = torch.tensor([[1, 5, 2], [7, 7, 3]])
    task = abe.image_task(net, explained="image", output_kind="regression")
    layers = {"image": "picture", "text": "words"}
    found = abe.explain(
        task, {"image": x, "text": text}, "m2ib", layers=layers, steps=steps, samples=k, draws=draws,
        ids=[1, 2], progress=False,
    )  # fmt: skip
    noises = [draws.recorded[f"bottleneck.{layer}"] for layer in ("picture", "words")]

    def alike(a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(a, b, dim=1)

    for i in range(2):
        words = net.words(text[i : i + 1]).detach()
        seen = net.picture(x[i : i + 1]).detach()
        image_side, text_side = seen.tanh().flatten(2).mean(2), net.mix(words).tanh().mean(1).detach()
        towers = [
            (seen[0], lambda z, t=text_side: alike(z.tanh().flatten(2).mean(2), t.expand(len(z), -1))),
            (words[0], lambda z, s=image_side: alike(net.mix(z).tanh().mean(1), s.expand(len(z), -1))),
        ]
        bits = []
        for (r, agreement), noise in zip(towers, noises, strict=True):

            def divergence(alpha: Tensor, r=r) -> Tensor:
                g = torch.sigmoid(alpha)
                return kl_divergence(Normal(g * r, 1 - g), Normal(torch.zeros_like(r), torch.ones_like(r)))

            def loss(
                alpha: Tensor, step: int, i=i, r=r, agreement=agreement, d=divergence, noise=noise
            ) -> Tensor:
                drawn = torch.stack([noise[(1, 2)[i], step * k + j] for j in range(k)])
                drawn = drawn.double().view(k, *r.shape)
                g = torch.sigmoid(alpha)
                return -agreement(g * r + (1 - g) * drawn).mean() + 0.1 * d(alpha).mean()

            alpha = adam(torch.full_like(r, 5.0), loss, 1.0, steps)
            bits.append(divergence(alpha) / math.log(2))
        assert miss(found.diagnostics["bits.image"][i : i + 1], bits[0].sum(0)[None]) < EXACT
        assert miss(found.diagnostics["bits.text"][i : i + 1], bits[1].sum(1)[None]) < EXACT
        total = found.attribution[i].sum()
        torch.testing.assert_close(total, bits[0].sum(), rtol=1e-8, atol=0)


def test_input_iba_without_a_layer_is_a_bottleneck_at_the_input():
    """Nothing known beforehand (Λ = 0) leaves the plain divergence: λ is that of `iba` at the input."""
    net, x, draws = nets.Smooth(), samples(2), RecordedDraws()
    plain = problem_of(net, x, draws=draws)
    gate, _ = abe.method("iba", layer="input", steps=5, samples=2, beta=20.0).engine.gate(plain, "input")
    found = explain(net, x, "input_iba", layer="input", steps=5, samples=2, draws=draws.replayed())
    assert miss(found.attribution, gate) < EXACT


def test_the_prior_of_input_iba_gives_the_layer_what_its_bottleneck_lets_through():
    net, x = Deep(), samples(2)
    engine = abe.method("input_iba", layer="late", samples=4, layer_beta=2.0).engine
    inner = problem_of(net, x)
    h = activations(inner, "late")
    inside = at_layer(inner, "late", h)
    gate, _ = engine.inner.gate(inside, "late")
    noise = engine.inner.statistics.of(inside, "late")
    goal = gate * h + (1 - gate) * noise.mean
    prior = engine._prior(inner, "late")
    mean = x.mean((2, 3), keepdim=True)

    def gap(rows: Tensor) -> Tensor:
        return ((net.late_of(rows) - goal) / noise.std).square().flatten(1).mean(1)

    net.late_of = lambda rows: activations(problem_of(net, rows.detach()), "late")
    assert (gap(prior * x + (1 - prior) * mean) < gap(mean.expand_as(x))).all()


# --- parts ----------------------------------------------------------------------------------------


def test_a_mask_of_ones_keeps_the_input_and_of_zeros_removes_it():
    problem = problem_of(nets.Smooth(), samples(3))
    owner, draw = torch.tensor([2, 0]), torch.tensor([0, 0])
    for fade in (FadeTo(baseline=Zero()), FadeByBlur(levels=5, sigma=0.3)):
        bound = fade.bind(problem)
        ones = torch.ones(2, 1, 6, 6, dtype=torch.float64)
        torch.testing.assert_close(bound.rows(ones, owner, draw), problem.x[owner], rtol=1e-12, atol=1e-12)
        gone = bound.rows(0 * ones, owner, draw)
        assert gone.std() < 0.7 * problem.x.std()


def test_shifted_rows_are_the_rows_at_other_places():
    problem, draws = problem_of(nets.Smooth(), samples(2)), RecordedDraws()
    problem.draws = draws
    owner, draw = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 5])
    found = ShiftRows(pixels=2).rows(problem, problem.x[owner], owner, draw, 0)
    for row, o, d in zip(found, owner.tolist(), draw.tolist(), strict=True):
        dy, dx = (int(s) - 2 for s in draws.recorded["mask.shift"][problem.ids[o], d])
        for y in range(6):
            for x in range(6):
                source = problem.x[o, :, min(max(y + dy, 0), 5), min(max(x + dx, 0), 5)]
                assert torch.equal(row[:, y, x], source)


def test_samples_that_stand_still_leave_the_batch_and_stay_as_they_are():
    net = nets.Watched(Adding(torch.ones(1, 6, 6, dtype=torch.float64)))
    x = torch.full((3, 1, 6, 6), 0.5, dtype=torch.float64)  # no position is worth removing
    x[1] = 0.01
    x[1, 0, 2, 3] = 1.0  # one is
    how = {"baseline": "zero", "variation": 0.0, "sparsity": 1.5, "jitter": 0, "tolerance": 1e-3}
    found = explain(net, x, "mp", steps=200, **how)
    taken = found.diagnostics["steps"].tolist()
    assert taken[0] == taken[2] == 1
    assert 10 <= taken[1] <= 12
    assert found.cost.backward_rows == net.backward_rows == sum(taken)
    assert found.attribution.sum() == found.attribution[1, 0, 2, 3] == 1
    alone = explain(net, x[1:2], "mp", steps=200, **how)
    assert alone.diagnostics["steps"].tolist() == taken[1:2]


def test_momentum_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(4, generator=generator, dtype=torch.float64)
    leaf = numbers.clone().requires_grad_(True)
    other = torch.optim.SGD([leaf], lr=0.1, momentum=0.9, dampening=0.9)
    mine, state = numbers, {}
    for step in range(5):
        other.zero_grad()
        (leaf**3).sum().backward()
        other.step()
        mine, state = MomentumStep(rate=0.1).step(mine, 3 * mine**2, state, step)
    torch.testing.assert_close(mine, leaf.detach())


def test_vectors_and_series_have_masks_too():
    weight = torch.tensor([2.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    task = abe.Task(model=Adding(weight), modality="tabular", lifter=_as_is, output_kind="logits")
    x = torch.ones(2, 4, dtype=torch.float64)
    found = abe.explain(task, x, "mp", baseline="zero", steps=150, target=1, progress=False, sparsity=0.5)
    torch.testing.assert_close(found.attribution, (weight > 0).to(x).expand(2, -1), rtol=0, atol=1e-9)
    series = torch.zeros(1, 24, dtype=torch.float64)
    series[0, 5:9] = 1
    task = abe.Task(model=Adding(series), modality="series", lifter=_as_is, output_kind="logits")
    long = torch.ones(1, 1, 24, dtype=torch.float64)
    found = abe.explain(task, long, "ep", areas=(0.2,), baseline="zero", target=1, progress=False, steps=100)
    assert found.attribution[0, 0, 5:9].mean() > 0.7
    assert found.attribution[0, 0, 12:].mean() < 0.2


def _as_is(task, raw):
    from abe.task.base import Context, Lifted

    return Lifted(raw, Context(), [str(i) for i in range(len(raw))])


# --- at a layer -----------------------------------------------------------------------------------


def test_a_problem_at_a_layer_is_the_rest_of_the_network():
    net, x = Deep(), samples(3)
    problem = problem_of(net, x)
    inside = at_layer(problem, "late")
    torch.testing.assert_close(inside.x, activations(problem, "late"))
    torch.testing.assert_close(inside.score, net(x)[:, TARGET].detach())
    other = inside.x.flip(0)
    rest = net.head(F.softplus(other).flatten(1))[:, TARGET].detach()
    torch.testing.assert_close(inside.scores(other, inside.everyone), rest)
    assert inside.evaluator.cost is problem.evaluator.cost


def test_the_layer_found_is_the_last_fine_one_that_everything_passes_through():
    problem = problem_of(Deep(), samples(1))
    assert find_layer(problem) == "late"
    named = explain(Deep(), samples(2), "iba", steps=2)
    direct = explain(Deep(), samples(2), "iba", steps=2, layer="late")
    assert torch.equal(named.attribution, direct.attribution)


def test_a_bypassed_layer_is_said_to_be_one():
    found = explain(Deep(), samples(1), "iba", steps=2, layer="branch")
    assert any("ABE-BYPASSED-LAYER" in w for w in found.warnings)
    fine = explain(Deep(), samples(1), "iba", steps=2, layer="stem")
    assert not any("ABE-BYPASSED-LAYER" in w for w in fine.warnings)


def test_a_model_without_positions_gets_its_bottleneck_at_the_input_and_says_so():
    found = explain(nets.Smooth(), samples(2), "iba", steps=2)
    assert any("ABE-NO-LAYER" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("layer", "words"),
    [("lat", "Did you mean 'late'"), ("spare", "never reached"), ("head", "no positions")],
)
def test_a_layer_that_does_not_exist_or_cannot_be_used(layer, words):
    net = Deep()
    with pytest.raises(ModelError, match=words) as problem:
        explain(net, samples(1), "iba", layer=layer, steps=1)
    assert problem.value.code is Code.LAYER
    assert not net.stem._forward_hooks


def test_statistics_of_another_shape_layer_or_of_one_sample():
    net = Deep()
    task = task_of(net)
    with pytest.raises(InputError, match="two samples") as few:
        abe.fit(task, samples(1), "iba", layer="late")
    assert few.value.code is Code.TRAINING_DATA
    statistics = abe.fit(task, samples(4), "iba", layer="late")
    assert statistics.count == 4
    with pytest.raises(InputError, match="another shape") as shape:
        explain(Wide().double(), samples(1), "iba", fitted=statistics)
    assert shape.value.code is Code.FITTED
    with pytest.raises(InputError, match="another layer"):
        explain(net, samples(1), "iba", layer="stem", fitted=statistics)
    with pytest.raises(InputError, match="not fitted for iba"):
        abe.method("iba", fitted=torch.ones(3))


class Wide(nn.Module):
    """Has a layer ``late`` with other activations than `Deep`."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Conv2d(3, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.late(x).flatten(2).mean(2)


def test_nothing_to_remove_is_said():
    weight = torch.zeros(3, 6, 6, dtype=torch.float64)
    found = explain(Adding(weight), samples(2), "mp", steps=2, jitter=0)
    assert any("ABE-NO-CHANGE" in w for w in found.warnings)


@pytest.mark.parametrize(
    "made",
    [
        lambda: abe.method("mp", steps=0),
        lambda: abe.method("mp", tolerance=-1.0),
        lambda: abe.method("mp", cells=0),
        lambda: abe.method("ep", areas=(0.5, 1.5)),
        lambda: abe.method("ep", areas=()),
        lambda: abe.method("ep", sigma=0.0),
        lambda: abe.method("iba", beta=0.0),
        lambda: abe.method("iba", samples=0),
        lambda: abe.method("m2ib", layers="vision"),
        lambda: abe.method("m2ib", layers={}),
    ],
)
def test_bad_parameters(made):
    with pytest.raises(SpecError):
        made()


def test_extremal_masks_of_vectors_are_refused():
    task = abe.Task(model=nn.Linear(4, 2).double(), modality="tabular", lifter=_as_is, output_kind="logits")
    with pytest.raises(SpecError, match="neighbouring positions"):
        abe.explain(task, torch.ones(1, 4, dtype=torch.float64), "ep", progress=False)


# --- a mask of one's own --------------------------------------------------------------------------


@value
class HalvedMask:
    """Everything is kept by half."""

    def bind(self, problem):
        def penalty(mask: Tensor, at) -> Tensor:
            return (mask - 0.5).square().flatten(1).mean(1) * 1e6

        return penalty


def test_a_penalty_of_ones_own_is_one_value():
    engine = MaskOptimisation(
        parametrisation=CellGrid(cells=3),
        perturbation=FadeTo(baseline=Zero()),
        penalties=(HalvedMask(), Removed(weight=0.0)),
        optimiser=AdamStep(rate=0.01),
        keep=True,
        steps=200,
    )
    found = explain(nets.Smooth(), samples(2), engine)
    torch.testing.assert_close(
        found.attribution.sum(1), torch.full((2, 6, 6), 0.5).double(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("iba", {"layer": "input", "steps": 3, "samples": 2}),
        ("mp", {"steps": 5, "jitter": 2, "baseline": "zero", "tolerance": 1e-9}),
        ("ep", {"steps": 5, "areas": (0.2, 0.5), "baseline": "mean"}),
    ],
)
def test_laws_in_other_settings(name, params):
    check_method(name, only=[n for n in METHOD_LAWS.names() if n != "implementation_invariance"], **params)


def test_area_targets_are_those_of_the_variants():
    penalty = SortedArea(areas=(0.25, 0.75), weight=2.0, growth=1.5, steps=4).bind(
        problem_of(nets.Smooth(), samples(1))
    )
    from abe.engines.mask.optimise import At

    mask = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.float64).view(2, 1, 2, 2)
    found = penalty(mask, At(torch.zeros(2).long(), torch.tensor([0, 1]), 2))
    torch.testing.assert_close(found, torch.tensor([0.0, 2 * 1.5**0.5 * 0.5]).double())


def test_smooth_maximum_of_ones_is_nearly_one_everywhere():
    bound = SmoothMaxGrid(cells=12).bind(problem_of(Wide().double(), samples(1, shape=(3, 31, 24)), target=0))
    mask = bound.mask(bound.start(1))
    assert mask.shape == (1, 1, 31, 24)
    assert mask.min() > 0.9
