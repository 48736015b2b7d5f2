"""Attacks against recordings of torchattacks and TransferAttack, on the same draws."""

import pytest
import torch
from tests.robustness.common import ALPHA, EPS, ReplayedDraws, recorded, run, same

FLOAT32 = 1e-7
"""Outputs were stored in float32."""


@pytest.mark.parametrize(
    ("name", "attack", "params"),
    [
        ("fgsm", "fgsm", {"eps": EPS}),
        ("bim", "bim", {"eps": EPS, "alpha": ALPHA}),
        ("mim", "mim", {"eps": EPS, "alpha": ALPHA}),
        ("tim", "tim", {"eps": EPS, "alpha": ALPHA, "variant": "published"}),
        ("sinifgsm", "sinim", {"eps": EPS, "alpha": ALPHA}),
        ("mig", "mig", {"eps": EPS, "alpha": ALPHA, "variant": "published"}),
        ("naa", "naa", {"eps": EPS, "alpha": ALPHA, "variant": "published", "layer": "4"}),
    ],
)
def test_recorded_attacks_without_draws(name, attack, params):
    case = recorded(f"attack_{name}")
    found = run(case, attack, **params)
    assert same(found.x_adv, case["out"], tolerance=FLOAT32) == 0
    assert torch.equal(found.label_after, case["pred_adv"].long())
    assert torch.equal(found.success, found.label_after != case["label"])


def test_projected_gradient_descent_from_the_recorded_start():
    case = recorded("attack_pgd")
    ((_, start),) = case["log"]
    draws = ReplayedDraws.of(range(2), attack__start=(start / EPS + 1)[:, None] / 2)
    found = run(case, "pgd", eps=EPS, alpha=ALPHA, draws=draws)
    assert same(found.x_adv, case["out"], tolerance=FLOAT32) == 0
    assert torch.equal(found.label_after, case["pred_adv"].long())
    assert draws.left == []


@pytest.mark.parametrize(("name", "decay"), [("difgsm", 0.0), ("difgsm_mu1", 1.0)])
def test_diverse_inputs_with_one_draw_for_the_batch(name, decay):
    """Recorded: size, top, left, coin per step, the same for all four samples."""
    case = recorded(f"attack_{name}")
    values = [v[0] for _, v in case["log"]]
    draws = []
    for size, top, left, coin in zip(*[iter(values)] * 4, strict=True):
        room = 32 - size
        draws.append([(size - 24 + 0.5) / 8, (top + 0.5) / room, (left + 0.5) / room, coin])
    replayed = ReplayedDraws.of(range(1), diversity=torch.tensor(draws, dtype=torch.float64)[None])
    found = run(case, "dim", eps=EPS, alpha=ALPHA, decay=decay, variant="published", draws=replayed)
    assert same(found.x_adv, case["out"], tolerance=FLOAT32) == 0
    assert torch.equal(found.label_after, case["pred_adv"].long())
    assert replayed.left == []


def test_spectrum_simulation():
    case = recorded("attack_ssa")
    noise = torch.stack([v for f, v in case["log"] if f == "torch.randn"]).view(1, 20, 3, 32, 32)
    mask = torch.stack([v for f, v in case["log"] if f == "torch.rand_like"]).view(1, 20, 3, 32, 32)
    for decay, out in ((1.0, "out"), (None, "out_official_no_momentum")):
        draws = ReplayedDraws.of(range(1), spectrum__noise=noise, spectrum__mask=mask)
        found = run(case, "ssa", eps=EPS, alpha=ALPHA, copies=2, decay=decay, draws=draws)
        assert same(found.x_adv, case[out].double(), tolerance=FLOAT32) == 0
        assert out != "out" or torch.equal(found.label_after, case["pred_adv"].long())
        assert draws.left == []


def test_gradient_relevance():
    case = recorded("attack_gra")
    around = torch.stack([v for _, v in case["log"]]).view(1, 20, 3, 32, 32)
    draws = ReplayedDraws.of(range(1), neighbourhood=(around / (3.5 * EPS) + 1) / 2)
    found = run(case, "gra", eps=EPS, alpha=ALPHA, neighbours=2, draws=draws)
    assert float((found.x_adv - case["out"]).abs().max()) < 1e-8
    assert torch.equal(found.label_after, case["pred_adv"].long())
    assert draws.left == []


def _structure(case, copies, operations, official):
    """The recorded draws of every copy in the order of the call, as the draws of `Structure`."""
    log = iter(case["log"])
    found = {k: [] for k in ("rows", "columns", "operation", "number", "noise", "dropout")}
    for _ in range(10 * copies):
        columns, rows = (sorted(next(log)[1]) for _ in range(2))
        operation, number = torch.zeros(9), torch.full((9,), 0.5, dtype=torch.float64)
        noise = torch.full((3, 32, 32), 0.5, dtype=torch.float64)
        dropout = torch.zeros(9, 3)
        ys, zs = [0, *rows, 32], [0, *columns, 32]
        for i in range(9):
            window = (slice(ys[i // 3], ys[i // 3 + 1]), slice(zs[i % 3], zs[i % 3 + 1]))
            high, wide = window[0].stop - window[0].start, window[1].stop - window[1].start
            operation[i] = chosen = int(next(log)[1])
            match operations[chosen]:
                case "vertical_shift":
                    number[i] = (next(log)[1] % high + 0.5) / high
                case "horizontal_shift":
                    number[i] = (next(log)[1] % wide + 0.5) / wide
                case "scale":
                    number[i] = next(log)[1][0]
                case "noise":
                    noise[(slice(None), *window)] = (
                        torch.as_tensor(next(log)[1]).view(3, high, wide) / (16 / 255) + 1
                    ) / 2
                case "dropout":
                    dropout[i] = 1 - (torch.tensor(next(log)[1]) > 0).float()
        for name, cuts in (("rows", rows), ("columns", columns)):
            rest = [p for p in range(31) if p + 1 not in cuts]
            found[name].append(torch.tensor([c - 1 for c in cuts] + rest))
        for name, value in (
            ("operation", operation),
            ("number", number),
            ("noise", noise),
            ("dropout", dropout),
        ):
            found[name].append(value)
    assert next(log, None) is None
    return ReplayedDraws.of(range(1), **{f"structure__{k}": torch.stack(v)[None] for k, v in found.items()})


@pytest.mark.parametrize(("name", "copies", "which"), [("sia", 4, "seven"), ("sia_official", 3, "ten")])
def test_structure_invariance(name, copies, which):
    from abe.robustness.transforms import OPERATIONS, SEVEN

    case = recorded(f"attack_{name}")
    operations = SEVEN if which == "seven" else OPERATIONS
    draws = _structure(case, copies, operations, which == "ten")
    found = run(
        case,
        "sia",
        eps=EPS,
        alpha=ALPHA,
        copies=copies,
        operations=which,
        variant="published",
        draws=draws,
    )
    assert same(found.x_adv, case["out"], tolerance=FLOAT32) == 0
    assert draws.left == []


@pytest.mark.parametrize(
    ("c", "kappa", "name"),
    [
        (100.0, 0.5, "c100_k0.5_0"),
        (10.0, 0.0, "c10_k0.0_2"),
        (10.0, 0.5, "c10_k0.5_1"),
        (1.0, 0.0, "c1_k0.0_1"),
    ],
)
def test_carlini_wagner_with_a_fixed_constant(c, kappa, name):
    case = recorded(f"attack_cw_{name}")
    found = run(case, "cw", c=c, kappa=kappa, steps=50, variant="published")
    torch.testing.assert_close(found.x_adv, case["out"], rtol=1e-10, atol=1e-10)
    assert torch.equal(found.label_after, case["pred_adv"].long())
    assert found.cost.backward_rows == case["meta"]["passes"]["backward_rows"]


def test_a_search_over_the_constant_finds_nearer_crossings():
    case = recorded("attack_cw_c10_k0.0_2")
    fixed = run(case, "cw", c=10.0, variant="published")
    searched = run(case, "cw", c=10.0)
    assert bool(searched.success.all() & fixed.success.all())
    assert float(searched.distance["l2"]) < 0.9 * float(fixed.distance["l2"])
