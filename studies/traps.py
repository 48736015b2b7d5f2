"""Two ways in which an evaluation of maps can mislead: retraining, and planted features."""

import torch
from torch import Tensor, nn

import abe
from abe.metrics import PerturbationRun
from abe.registry import baselines
from abe.testing import problem_of, task_of
from studies import shapes
from studies.charts import charted, said, spread
from studies.outcome import Chart, Line, Outcome, Table
from studies.shapes import SIDE, accuracy, pictures, trained
from studies.statistics import Interval, difference

# ---------------------------------------------------------------- retraining

TRAIN, TEST = 1500, 500
SHARE = 0.7
READINGS = ("original model", "retrained model", "retrained, whole pictures")


def retraining(full: bool = False) -> Outcome:
    """Figure 1 and Figure 10: two removals of the same 70 % of the pixels, and a small one at the border.

    The first removes a disc in the middle. The second leaves of the disc's rim, and takes instead at the
    border, a place that depends on the class. The third blackens 5 % at a place of the border that depends
    on the class and leaves the object whole. Every repetition has pictures and weights of its own.
    """
    repeats, train = (10, 8 * TRAIN) if full else (5, TRAIN)
    whole: list[float] = []
    found: dict[str, dict[str, list[float]]] = {n: {r: [] for r in READINGS} for n in REMOVALS}
    for repeat in range(repeats):
        given, asked = (pictures(n, seed=10 * repeat + k) for k, n in ((11, train), (12, TEST)))
        original = trained(*given, seed=repeat)
        whole.append(accuracy(original, *asked))
        for name, removal in REMOVALS.items():
            again = trained(removal(*given), given[1], seed=repeat + 100)
            right = (
                accuracy(original, removal(*asked), asked[1]),
                accuracy(again, removal(*asked), asked[1]),
                accuracy(again, *asked),
            )
            for reading, number in zip(READINGS, right, strict=True):
                found[name][reading].append(number)
    return _retraining_found(found, whole)


def _retraining_found(found: dict[str, dict[str, list[float]]], whole: list[float]) -> Outcome:
    first, second, third = found.values()
    original, again, unchanged = READINGS
    findings = [
        said(
            f"Both large removals of {SHARE:.0%} cost the original model accuracy",
            _less(whole, [max(a, b) for a, b in zip(first[original], second[original], strict=True)]),
            "least loss",
        ),
        said(
            "A retrained model reads more from pictures whose removal tells the class, though as many pixels "
            "are gone",
            _less(second[again], first[again]),
            "difference in accuracy",
        ),
        said(
            "With the object whole, the retrained model reads the mark instead: on unmarked pictures it is "
            "worse than the original",
            _less(whole, third[unchanged]),
            "loss",
        ),
    ]
    rows = [(n, *(str(spread(v)) for v in readings.values())) for n, readings in found.items()]
    rows.insert(0, ("nothing", str(spread(whole)), "", ""))
    table = Table(
        "Accuracy",
        ("removal", *READINGS),
        rows,
        f"Means over {len(whole)} repetitions with 95 % bootstrap intervals; six classes, so chance is .167.",
    )
    charts = [
        Chart(r, {n: Line([0.0], [spread(v[r])]) for n, v in found.items()}, up="accuracy") for r in READINGS
    ]
    caption = "Accuracy under three removals, before and after retraining, with 95 % intervals."
    return charted(tables=[table], findings=findings, charts=charts, caption=caption)


def _less(one: list[float], other: list[float]) -> Interval:
    """The mean of one − other over repetitions."""
    return spread([a - b for a, b in zip(one, other, strict=True)])


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


REMOVALS = {"disc": disc, "disc and class": disc_and_class, "border by class": border}


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
BOX = (7, 5)
"""Height and width of a planted number."""


def semi_natural(full: bool = False) -> Outcome:
    """Figures 2 and 3: labels drawn at random are planted as a number, or as stripes; two maps fit one each.

    Rect is a box of the number's size where integrated gradients are strongest, and once, as printed, at
    their centre of gravity; Pooling is their mean over each stripe. Attr% is the share of a map on what was
    planted. ROAD then judges the maps of the network that reads numbers, and of one that reads the shapes.
    """
    train, shown = (8 * TRAIN, 1000) if full else (TRAIN, 200)
    labels = {
        n: torch.randint(NUMBERS, (n,), generator=torch.Generator().manual_seed(n)) for n in (train, TEST)
    }
    rows, shares, charts = [], {}, []
    curves: dict[str, dict[str, Tensor]] = {}
    for name, plant in (("number", number), ("stripes", stripes)):
        given, _ = plant(pictures(train, seed=21)[0], labels[train])
        asked, region = plant(pictures(TEST, seed=22)[0], labels[TEST])
        net = trained(given, labels[train], classes=NUMBERS, epochs=10)
        right, x, region = accuracy(net, asked, labels[TEST]), asked[:shown], region[:shown]
        maps = crafted(net, x)
        shares[name] = percentages(net, x, maps, region)
        area = float(region.double().mean())
        rows.append((name, f"{right:.3f}", f"{area:.2f}", *(str(spread(v)) for v in shares[name].values())))
        bars = {m: Line([0.0], [spread(v)]) for m, v in shares[name].items()}
        charts.append(Chart(f"Attr%, planted {name}", bars, up="share of the map on what was planted"))
        if name == "number":
            curves["planted number"] = road(net, x, labels[TEST][:shown], maps)
    net, x, shape = shapes.classifier(shown)
    curves["shapes themselves"] = road(net, x, shape, crafted(net, x))
    return _semi_natural_found(rows, shares, charts, curves)


def _semi_natural_found(
    rows: list[tuple[str, ...]],
    shares: dict[str, dict[str, list[float]]],
    charts: list[Chart],
    curves: dict[str, dict[str, Tensor]],
) -> Outcome:
    means = {where: {m: c.mean(1).tolist() for m, c in found.items()} for where, found in curves.items()}
    planted, real = means.values()
    number, stripe = shares.values()
    findings = [
        said(
            "Where a number is planted, Rect beats Pooling by Attr%",
            difference(number["Rect"], number["Pooling"]),
        ),
        said(
            "So does Rect as printed, at the centre of gravity of integrated gradients",
            difference(number["Rect as printed"], number["Pooling"]),
        ),
        said("Where stripes are planted, Pooling beats Rect", difference(stripe["Pooling"], stripe["Rect"])),
        said(
            "By ROAD, Rect beats integrated gradients where a number is planted",
            difference(planted["IG"], planted["Rect"]),
            "accuracy left, IG − Rect",
        ),
        said(
            "By ROAD, Rect is worse than integrated gradients where the shapes themselves are to be read",
            difference(real["Rect"], real["IG"]),
            "accuracy left, Rect − IG",
        ),
    ]
    head = ("planted", "accuracy", "share of the area", *(f"Attr% of {m}" for m in number))
    tables = [
        Table("Attr%", head, rows, "Means over pictures with 95 % bootstrap intervals."),
        Table(
            "ROAD: mean accuracy while the most important pixels go (lower is better)",
            ("pictures", *planted),
            [(where, *(str(spread(v)) for v in found.values())) for where, found in means.items()],
            "Ten to ninety per cent removed, by noisy linear imputation.",
        ),
    ]
    for where, found in curves.items():
        lines = {m: Line(REMOVED, [spread(column) for column in c.T]) for m, c in found.items()}
        charts.append(Chart(f"ROAD, {where}", lines, "share removed", "accuracy"))
    caption = (
        "Attr% where a number or stripes were planted; ROAD for the number and for the shapes themselves."
    )
    return charted(tables=tables, findings=findings, charts=charts, caption=caption)


REMOVED = tuple(k / 10 for k in range(1, 10))


def road(net: nn.Module, x: Tensor, labels: Tensor, maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """(n, 9) whether each picture is classified right while its most important pixels go, by map."""
    run = PerturbationRun(direction="deletion", baseline=baselines.make("noisy_linear"), step=0.1)
    problem = problem_of(net, x, target=labels)
    return {n: run.perform(problem, m).curve("accuracy").double()[:, 1:-1] for n, m in maps.items()}


def number(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """A white digit on a black box in the lower left; and where the box is."""
    dots = torch.tensor([[int(d) for d in code] for code in DIGITS]).view(NUMBERS, 1, 5, 3)
    box = torch.zeros(NUMBERS, 1, *BOX)
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
    """(n, 1, h, w) the two maps made from integrated gradients, these themselves, and a map of a layer."""
    heat = shapes.unit_map(net, x, "integrated_gradients")
    share = heat / heat.sum((1, 2, 3), keepdim=True)
    at = torch.arange(SIDE)
    centre = [(share.sum((1, 3)) * at).sum(1), (share.sum((1, 2)) * at).sum(1)]
    near = [(at[None] - c[:, None]).abs() <= half for c, half in zip(centre, (3.5, 2.5), strict=True)]
    rows = heat.view(len(x), STRIPES, -1).mean(2).repeat_interleave(SIDE // STRIPES, 1)
    return {
        "IG": heat,
        "Grad-CAM": shapes.unit_map(net, x, "grad_cam"),
        "Rect": strongest(heat, BOX),
        "Rect as printed": (near[0][:, :, None] & near[1][:, None]).float()[:, None],
        "Pooling": rows[:, None, :, None].expand_as(heat).contiguous(),
    }


def strongest(heat: Tensor, box: tuple[int, int]) -> Tensor:
    """(n, 1, h, w) 1 in the box of this height and width that holds most of each map."""
    sums = nn.functional.avg_pool2d(heat, box, stride=1)
    first = sums.flatten(1).argmax(1)
    starts = (first // sums.shape[3], first % sums.shape[3])
    at = torch.arange(SIDE)[None]
    rows, columns = ((at >= s[:, None]) & (at < s[:, None] + n) for s, n in zip(starts, box, strict=True))
    return (rows[:, :, None] & columns[:, None]).to(heat)[:, None]


def percentages(net: nn.Module, x: Tensor, maps: dict[str, Tensor], region: Tensor) -> dict[str, list[float]]:
    """Attr% of every map, picture by picture."""
    found = abe.evaluate(task_of(net), maps, ["attribution_percentage"], data=x, masks=region, progress=False)
    return {name: found.scores[name]["attribution_percentage"].values.tolist() for name in maps}
