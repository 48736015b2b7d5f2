"""Two ways in which an evaluation of maps can mislead: retraining, and planted features."""

import torch
from torch import Tensor, nn

import abe
from abe.metrics import score
from abe.testing import task_of
from studies import shapes
from studies.shapes import SIDE, accuracy, pictures, trained
from studies.soundness import Found, said

# ---------------------------------------------------------------- retraining

TRAIN, TEST = 1500, 500
SHARE = 0.7


def retraining() -> Found:
    """Figure 1 and Figure 10: two removals of the same 70 % of the pixels, and a small one at the border.

    The first removes a disc in the middle. The second leaves of the disc's rim, and takes instead at the
    border, a place that depends on the class. The third blackens 5 % at a place of the border that depends
    on the class and leaves the object whole.
    """
    train, test = pictures(TRAIN, seed=11), pictures(TEST, seed=12)
    original = trained(*train)
    removals = {"disc": disc, "disc and class": disc_and_class, "border by class": border}
    rows, bars = [], {"original model": {}, "retrained model": {}, "retrained, whole pictures": {}}
    for name, removal in removals.items():
        again = trained(removal(*train), train[1], seed=1)
        numbers = (
            accuracy(original, removal(*test), test[1]),
            accuracy(again, removal(*test), test[1]),
            accuracy(again, *test),
        )
        for title, number in zip(bars, numbers, strict=True):
            bars[title][name] = ([0.0], [number])
        rows.append((name, *(f"{n:.3f}" for n in numbers)))
    numbers_of = {name: [bars[t][name][1][0] for t in bars] for name in removals}
    first, second, third = numbers_of.values()
    whole = accuracy(original, *test)
    trap = second[1] > 0.8 and second[1] - first[1] > 0.2 and max(first[0], second[0]) < whole - 0.2
    lazy = third[2] < whole - 0.2
    findings = [
        f"The original model is right on {whole:.1%} of whole pictures; both large removals of {SHARE:.0%} "
        f"hurt it, and yet the second can be relearnt where the first cannot: {said(trap)}.",
        f"With the object whole, the retrained model reads the black mark instead of it: {said(lazy)}.",
    ]
    head = ("removal", "original model", "retrained model", "retrained, whole pictures")
    return Found(head, rows, findings, {f"accuracy: {title}": lines for title, lines in bars.items()})


def disc(x: Tensor, labels: Tensor) -> Tensor:
    """70 % of the pixels around the middle become grey."""
    return torch.where(_inner(SHARE), 0.5, x)


def disc_and_class(x: Tensor, labels: Tensor) -> Tensor:
    """A smaller disc, and for the rest of the 70 % a part of the border that depends on the class."""
    mark = _marks()
    used = int(mark[0].sum())
    return torch.where(_inner(SHARE - used / SIDE**2) | mark[labels][:, None], 0.5, x)


def border(x: Tensor, labels: Tensor) -> Tensor:
    """5 % at the border become black."""
    return torch.where(_marks()[labels][:, None], 0.0, x)


def _inner(share: float) -> Tensor:
    """(h, w) the pixels nearest to the middle."""
    at = torch.arange(SIDE) - SIDE / 2 + 0.5
    far = (
        at[:, None].square() + at[None, :].square() + 1e-4 * torch.arange(SIDE**2).view(SIDE, SIDE) / SIDE**2
    )
    return far <= far.flatten().kthvalue(int(share * SIDE**2)).values


def _marks() -> Tensor:
    """(classes, h, w) for every class another stretch of the border, 5 % of the picture."""
    marks = torch.zeros(shapes.CLASSES, SIDE, SIDE, dtype=torch.bool)
    for k in range(shapes.CLASSES):
        column = (k % 3) * 9
        marks[k, :4, column : column + 10] = k < 3
        marks[k, -4:, column : column + 10] = k >= 3
    return marks


# ---------------------------------------------------------------- planted features

DIGITS = (
    *("111101101101111", "010110010010111", "111001111100111", "111001111001111"),
    *("101101111001001", "111100111001111", "111100111101111", "111001010010010"),
)
"""The digits 0 to 7 in three by five dots."""
NUMBERS = len(DIGITS)
STRIPES = 7


def semi_natural() -> Found:
    """Figure 2: labels drawn at random are planted as a number, or as stripes; two maps fit one each.

    Rect is a box of the number's size at the centre of gravity of integrated gradients, Pooling their mean
    over each stripe. Attr% is the share of a map on what was planted.
    """
    labels = {
        n: torch.randint(NUMBERS, (n,), generator=torch.Generator().manual_seed(n)) for n in (TRAIN, TEST)
    }
    rows, table = [], {}
    for name, plant in (("number", number), ("stripes", stripes)):
        train, _ = plant(pictures(TRAIN, seed=21)[0], labels[TRAIN])
        test, region = plant(pictures(TEST, seed=22)[0], labels[TEST])
        net = trained(train, labels[TRAIN], classes=NUMBERS, epochs=10)
        right = accuracy(net, test, labels[TEST])
        found = crafted(net, test[:200])
        table[name] = {m: percentage(net, test[:200], a, region[:200]) for m, a in found.items()}
        area = float(region[:200].double().mean())
        rows.append((name, f"{right:.3f}", f"{area:.2f}", *(f"{v:.3f}" for v in table[name].values())))
    trap = table["number"]["Rect"] > table["number"]["Pooling"]
    trap = trap and table["stripes"]["Pooling"] > table["stripes"]["Rect"]
    findings = [f"Each crafted map is the better one where it knows what was planted: {said(trap)}."]
    head = ("planted", "accuracy", "share of the area", *(f"Attr% of {m}" for m in table["number"]))
    bars = {n: {m: ([0.0], [v]) for m, v in values.items()} for n, values in table.items()}
    return Found(head, rows, findings, {f"Attr%, planted {n}": lines for n, lines in bars.items()})


def number(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """A white digit on a black box in the lower left; and where the box is."""
    dots = torch.tensor([[int(d) for d in code] for code in DIGITS]).view(NUMBERS, 1, 5, 3)
    box = torch.zeros(NUMBERS, 1, 7, 5)
    box[:, :, 1:6, 1:4] = dots.float()
    out, region = x.clone(), torch.zeros(len(x), SIDE, SIDE, dtype=torch.bool)
    out[:, :, -9:-2, 2:7], region[:, -9:-2, 2:7] = box[labels], True
    return out, region


def stripes(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """White rows for the binary digits of the label, seven of them; and where they are."""
    code = 37 * labels % (2**STRIPES - 1) + 1
    bits = (code[:, None] >> torch.arange(STRIPES)) % 2
    region = bits.repeat_interleave(SIDE // STRIPES, 1).bool()[:, :, None].expand(-1, SIDE, SIDE)
    return torch.where(region[:, None], 1.0, x), region


def crafted(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """(n, 1, h, w) the two maps made from integrated gradients, and these themselves."""
    heat = shapes.unit_map(net, x, "integrated_gradients")
    share = heat / heat.sum((1, 2, 3), keepdim=True)
    at = torch.arange(SIDE)
    centre = [(share.sum((1, 3)) * at).sum(1), (share.sum((1, 2)) * at).sum(1)]
    near = [(at[None] - c[:, None]).abs() <= half for c, half in zip(centre, (3.5, 2.5), strict=True)]
    rows = heat.view(len(x), STRIPES, -1).mean(2).repeat_interleave(SIDE // STRIPES, 1)
    return {
        "IG": heat,
        "Rect": (near[0][:, :, None] & near[1][:, None]).float()[:, None],
        "Pooling": rows[:, None, :, None].expand_as(heat),
    }


def percentage(net: nn.Module, x: Tensor, maps: Tensor, region: Tensor) -> float:
    """Mean Attr% of maps."""
    explanation = abe.explain(task_of(net), x, "gradient", progress=False)
    explanation.attribution = maps.expand_as(x).contiguous()
    return score(explanation, task_of(net), metric="attribution_percentage", masks=region).mean
