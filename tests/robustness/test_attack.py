"""Attacks as a user calls them: what comes back, and what is refused."""

from io import StringIO
from typing import Any

import pytest
import torch
from tests.robustness.common import images, net
from torch import Tensor, nn

import abe
from abe.errors import Code, SpecError, TargetError
from abe.progress import Progress
from abe.registry import updates
from abe.robustness import (
    Ball,
    Goal,
    Momentum,
    Plain,
    Sign,
    UniformStart,
    chain,
    evaluate_robustness,
    transfer_matrix,
)
from abe.testing.nets import Smooth, Watched
from abe.testing.snapshot import Snapshot

LAYERED: dict[str, dict[str, Any]] = {n: {"layer": "first", "points": 3} for n in ("naa", "danaa")}
FAST = {
    "ssa": {"copies": 3},
    "sia": {"copies": 3, "blocks": 2},
    "gra": {"neighbours": 3},
    "mig": {"points": 4},
}
NAMES = [n for n in updates.names() if n not in ("descent", "advgan")]


def smooth_task(**how: Any) -> abe.Task:
    return abe.image_task(Smooth().eval(), channels=3, output_kind="logits", **how)


def samples(b: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(b, 3, 6, 6, generator=generator, dtype=torch.float64) * 0.9 + 0.05


def settings(name: str) -> dict[str, Any]:
    return {**LAYERED.get(name, {}), **FAST.get(name, {})}


def attacked(x: Tensor, name: Any, task: abe.Task | None = None, **how: Any) -> abe.AdversarialResult:
    return abe.attack(task or smooth_task(), x, name, **{"progress": False, "execution": "model", **how})


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_alone_is_its_row_in_a_batch(name):
    """Also with the early stop, which lets the other rows leave, in any order."""
    x = samples(3)
    how = {**settings(name), **({"searches": 2} if name == "cw" else {}), "steps": 3}
    together = attacked(x, name, **how)
    alone = [attacked(x[i : i + 1], name, **how) for i in range(3)]
    torch.testing.assert_close(together.x_adv, torch.cat([r.x_adv for r in alone]), rtol=0, atol=1e-9)
    assert together.queries.tolist() == [int(r.queries) for r in alone]
    back = attacked(x.flip(0), name, chunk=1, **how)
    torch.testing.assert_close(together.x_adv, back.x_adv.flip(0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "cw"])
def test_changes_stay_in_the_ball_and_the_bounds(name, norm):
    eps = {"linf": 0.1, "l2": 0.6}[norm]
    found = attacked(samples(2), name, eps=eps, norm=norm, early_stop=False, steps=3, **settings(name))
    assert float(found.distance[norm].max()) <= eps * (1 + 1e-9)
    assert 0 <= float(found.x_adv.min()) <= float(found.x_adv.max()) <= 1
    assert bool((found.distance["linf"] > 0).all())


@pytest.mark.parametrize("name", ["pgd", "mim", "cw"])
def test_targeted_attacks_reach_their_class_where_there_is_room(name):
    x = samples()
    before = attacked(x, "fgsm").label_before
    aim = (before + 1) % 5
    room: dict[str, Any] = (
        {"c": 100.0, "rate": 0.1, "searches": 1} if name == "cw" else {"eps": 0.9, "alpha": 0.1}
    )
    found = attacked(x, name, target=aim, steps=40, **room)
    assert found.targeted
    assert bool((found.label_after == aim).all()), found.to_dict()


def test_success_distance_and_labels_are_those_of_the_returned_input():
    task, x = smooth_task(), samples(4)
    found = attacked(x, "pgd", task, eps=0.2, alpha=0.02, steps=10)
    with torch.no_grad():
        after = task.model(found.x_adv).argmax(1)
    assert torch.equal(found.label_after, after)
    assert torch.equal(found.success, after != found.label_before)
    change = (found.x_adv - x).flatten(1)
    torch.testing.assert_close(found.distance["l2"], change.square().sum(1).sqrt())
    assert bool((found.distance["linf"] <= 0.2 + 1e-12).all())
    assert found.to_dict()["success_rate"] == float(found.success.double().mean())


def test_early_stop_lets_rows_leave_and_keeps_their_first_crossing():
    x = samples(6)
    early = attacked(x, "bim", eps=0.5, alpha=0.02, steps=25)
    full = attacked(x, "bim", eps=0.5, alpha=0.02, steps=25, early_stop=False)
    assert bool(early.success.any())
    assert early.cost.forward_rows < full.cost.forward_rows
    assert float(early.queries.sum()) == early.cost.forward_rows
    assert bool((early.distance["l2"] <= full.distance["l2"] + 1e-12)[early.success].all())


def test_queries_are_the_rows_of_the_model():
    net_ = Watched(Smooth().eval())
    task = abe.image_task(net_, channels=3, output_kind="logits")
    for name in ("bim", "pgd", "sinim", "naa"):
        start = net_.forward_rows, net_.backward_rows
        layer = {"layer": "net.first", "points": 3} if name == "naa" else {}
        found = attacked(samples(), name, task, early_stop=False, **layer)
        rows = net_.forward_rows - start[0]
        assert found.cost.forward_rows == rows == int(found.queries.sum()), name
        assert found.cost.backward_rows == net_.backward_rows - start[1] or name == "naa"
    assert attacked(samples(1), "bim", task, steps=4, early_stop=False).cost.backward_rows == 4


def test_restarts_keep_the_best_run_and_are_repeatable():
    x = samples(5)
    one = attacked(x, "pgd", eps=0.12, alpha=0.03, steps=4)
    many = attacked(x, "pgd", eps=0.12, alpha=0.03, steps=4, restarts=6)
    again = attacked(x, "pgd", eps=0.12, alpha=0.03, steps=4, restarts=6)
    assert torch.equal(many.x_adv, again.x_adv)
    assert int(many.success.sum()) >= int(one.success.sum())
    alone = attacked(x[2:3], "pgd", eps=0.12, alpha=0.03, steps=4, restarts=6)
    torch.testing.assert_close(alone.x_adv[0], many.x_adv[2], rtol=0, atol=1e-9)
    with pytest.raises(SpecError, match="restart"):
        attacked(x, "bim", restarts=2)


def test_the_model_is_left_as_found_also_after_a_failure():
    model = net("s").train()
    model[0].weight.requires_grad_(False)
    task = abe.image_task(model, output_kind="logits")
    before = Snapshot(model)
    abe.attack(task, images(), "mim", progress=False)
    assert before.changes() == []
    with pytest.raises(SpecError):
        abe.attack(task, images(), lambda point: point.x * torch.nan, progress=False)
    assert before.changes() == []


def test_a_user_step_is_an_attack_and_a_path():
    def downhill(point: Any) -> Tensor:
        return point.clip(point.x - 0.05 * point.gradient.sign())

    x = samples()
    mine = attacked(x, downhill, steps=5, early_stop=False)
    chained = attacked(x, chain(Plain(), Sign(), alpha=0.05), steps=5, early_stop=False)
    torch.testing.assert_close(mine.x_adv, chained.x_adv, rtol=0, atol=1e-12)
    task = smooth_task()
    label = mine.label_before
    map_ = abe.explain(
        task,
        x,
        "path_attribution",
        update=chain(Plain(), Sign(), alpha=0.05),
        steps=5,
        objective="log_probability",
        target=label,
        progress=False,
        execution="model",
    )
    change = task.log_probabilities(task.model(x)) - task.log_probabilities(task.model(mine.x_adv))
    torch.testing.assert_close(map_.delta, change.gather(1, label[:, None])[:, 0].detach())


def test_a_descent_of_the_attack_goal_is_the_attack():
    """The registered plain descent needs to know nothing of attacks."""
    x = samples()
    label = attacked(x, "fgsm").label_before
    assert bool(attacked(x, "descent", steps=60, label=label).success.all())


def test_goals_are_minus_the_losses():
    outputs, target = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1])
    assert float(Goal(loss="margin")(outputs, target)) == 1.0
    assert float(Goal(loss="margin", targeted=True)(outputs, target)) == -1.0
    torch.testing.assert_close(-Goal()(outputs, target), nn.functional.cross_entropy(outputs, target)[None])
    low = torch.tensor([[-1.0, -3.0]])
    assert float(Goal(loss="floored_margin")(low, torch.tensor([0]))) == -1.0


class Fixed(nn.Module):
    """Scores that hardly depend on the input, so that nothing crosses."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.arange(classes, dtype=torch.float64).flip(0) * 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.bias + 1e-3 * x.flatten(1).mean(1, keepdim=True) * torch.arange(len(self.bias))


class Half(nn.Module):
    """Bright images are easy to turn, dark ones never turn."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        light = x.flatten(1).mean(1) * self.one
        return torch.stack([torch.zeros_like(light), torch.where(light > 0.5, light - 0.52, light - 5.0)], 1)


def test_an_attack_that_never_crosses_is_told_per_sample():
    task = abe.image_task(Half(), channels=3, output_kind="logits")
    x = torch.stack([torch.full((3, 4, 4), v, dtype=torch.float64) for v in (0.1, 0.55, 0.2)])
    found = attacked(x, "bim", task, eps=0.1, alpha=0.02, steps=6)
    assert found.success.tolist() == [False, True, False]
    (warning,) = (w for w in found.warnings if Code.TRAINING_MODE.value not in w)
    assert "sample 0, 2" in warning
    assert Code.NOT_CROSSED.value in warning
    alone = attacked(x[1:2], "bim", task, eps=0.1, alpha=0.02, steps=6)
    torch.testing.assert_close(alone.x_adv[0], found.x_adv[1])
    assert torch.equal(found.label_after[[0, 2]], found.label_before[[0, 2]])
    never = attacked(
        x[:1], "cw", abe.image_task(Fixed(4), channels=3, output_kind="logits"), searches=2, steps=10
    )
    assert not bool(never.success)
    assert Code.NOT_CROSSED.value in never.warnings[-1]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "eps of zero": ({"method": "pgd", "eps": 0.0}, "ABE-BAD-PARAMETER"),
    "negative eps": ({"method": "bim", "eps": -0.1}, "ABE-BAD-PARAMETER"),
    "eps that is no number": ({"method": "pgd", "eps": float("nan")}, "ABE-BAD-PARAMETER"),
    "eps beyond the range": ({"method": "pgd", "eps": 8.0}, "ABE-BAD-PARAMETER"),
    "l2 eps beyond every image": ({"method": "pgd", "eps": 50.0, "norm": "l2"}, "ABE-BAD-PARAMETER"),
    "alpha of zero": ({"method": "mim", "alpha": 0}, "ABE-BAD-PARAMETER"),
    "alpha beyond the range": ({"method": "mim", "alpha": 2.0}, "ABE-BAD-PARAMETER"),
    "no steps": ({"method": "pgd", "steps": 0}, "ABE-BAD-PARAMETER"),
    "no restarts": ({"method": "pgd", "restarts": 0}, "ABE-BAD-PARAMETER"),
    "no such attack": ({"method": "pdg"}, "ABE-UNKNOWN-NAME"),
    "no such parameter": ({"method": "fgsm", "alpha": 0.1}, "ABE-UNKNOWN-PARAMETER"),
    "no such class": ({"method": "pgd", "target": 5}, "ABE-TARGET-RANGE"),
    "no such label": ({"method": "pgd", "label": [0, 9, 1]}, "ABE-TARGET-RANGE"),
    "targeted without a class": ({"method": "pgd", "targeted": True}, "ABE-TARGET-MISSING"),
    "no such layer": ({"method": "naa", "layer": "frist"}, "ABE-LAYER"),
    "a loss of another kind": ({"method": "bim", "loss": "hinge"}, "ABE-UNKNOWN-PARAMETER"),
    "nothing that moves": ({"method": 3}, "ABE-UPDATE"),
    "too few steps for eps": ({"method": "cw", "c": -1.0}, "ABE-BAD-PARAMETER"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_before_attacking(what):
    how, code = REFUSED[what]
    with pytest.raises(abe.AbeError, match=code):
        attacked(samples(), how["method"], **{k: v for k, v in how.items() if k != "method"})


def test_a_targeted_attack_at_the_current_class_names_the_samples():
    x = samples(4)
    now = attacked(x, "fgsm").label_before
    aim = now.clone()
    aim[0] = (aim[0] + 1) % 5
    with pytest.raises(TargetError, match=r"sample 1, 2, 3.*ABE-TARGET-REACHED"):
        attacked(x, "pgd", target=aim)


def test_a_model_with_one_class_cannot_be_attacked():
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).sum(1, keepdim=True) * self.one

    for kind in ("logits", "regression"):
        with pytest.raises(SpecError, match="ABE-UNSUPPORTED"):
            attacked(samples(), "pgd", abe.image_task(One(), channels=3, output_kind=kind))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda point: point.x * torch.nan, "NaN"),
        (lambda point: point.x[:, :1], "next point of every row"),
        (lambda point: point.x + 3, "bounds"),
        (lambda point: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_broken_updates_are_told(step, words):
    with pytest.raises(SpecError, match=words):
        attacked(samples(), step)


def test_attacks_that_need_images_say_so():
    from abe.engines.path.steps.parts import need_image

    with pytest.raises(SpecError, match="needs images"):
        need_image("A translation kernel", torch.zeros(2, 12))


def test_random_starts_fill_the_ball():
    x = torch.full((64, 3, 6, 6), 0.5, dtype=torch.float64)
    for norm, eps in (("linf", 0.3), ("l2", 0.4)):
        still = chain(
            Plain(), Sign(), UniformStart(eps=eps, norm=norm), Ball(eps=eps, norm=norm), alpha=1e-12
        )
        sizes = attacked(x, still, steps=1, early_stop=False).distance[norm]
        assert float(sizes.max()) <= eps * (1 + 1e-6)
        assert float(sizes.median()) > 0.9 * eps  # most of a ball lies near its surface
        assert float(sizes.std()) > 0


def test_specifications_survive():
    from abe.spec import from_spec, to_spec

    for name in NAMES:
        made = updates.make(name, **LAYERED.get(name, {}))
        assert from_spec(to_spec(made)) == made
    mine = chain(Plain(), Momentum(), Sign(), Ball(eps=0.1), alpha=0.02, target=3)
    assert from_spec(to_spec(mine)) == mine


def test_robust_accuracy_falls_with_the_radius():
    task, x = smooth_task(), samples(8)
    labels = attacked(x, "fgsm", task).label_before
    labels[0] = (labels[0] + 1) % 5
    radii = [0.2, 0.01, 0.05]
    curve = evaluate_robustness(task, x, "pgd", epsilons=radii, label=labels, progress=False)
    assert curve.epsilons == sorted(radii)
    assert curve.clean_accuracy == 7 / 8
    accuracy = [curve.clean_accuracy, *curve.robust_accuracy]
    assert accuracy == sorted(accuracy, reverse=True)
    for i, eps in enumerate(curve.epsilons):
        direct = attacked(x, "pgd", task, eps=eps, label=labels)
        never = ~direct.success
        assert curve.robust_accuracy[i] <= float(never.double().mean()) + 1e-12
    broken = curve.broken_at[curve.correct]
    assert torch.equal(curve.distance.isfinite(), curve.broken_at.isfinite())
    assert bool((curve.distance[curve.broken_at.isfinite()] <= broken[broken.isfinite()] + 1e-9).all())
    assert curve.success_rate[-1] == pytest.approx(float((broken <= 0.2).double().mean()))
    scaled = evaluate_robustness(
        task, x, updates.make("pgd", eps=0.1), epsilons=radii, label=labels, progress=False
    )
    assert scaled.robust_accuracy == curve.robust_accuracy
    with pytest.raises(SpecError, match="radius"):
        evaluate_robustness(task, x, "cw")
    with pytest.raises(SpecError, match="epsilons"):
        evaluate_robustness(task, x, "pgd", epsilons=[0.1, -0.1])


def test_transfer_between_models():
    tasks = {
        name: abe.image_task(Smooth(seed=seed).eval(), channels=3, output_kind="logits")
        for name, seed in (("a", 0), ("b", 1), ("a again", 0))
    }
    found = transfer_matrix(tasks, samples(8), "mim", eps=0.3, alpha=0.05, steps=10, progress=False)
    assert found.rates[0, 0] == found.rates[0, 2] == found.rates[2, 0] > 0.5
    assert found.rates[0, 1] < found.rates[0, 0]
    assert found.counts.eq(8).all()
    other = abe.image_task(Smooth().eval(), channels=3, bounds=(0, 2), output_kind="logits")
    with pytest.raises(abe.AbeError, match="ABE-SHAPE"):
        transfer_matrix({"a": tasks["a"], "b": other}, samples(2))


def test_tables_and_figures(tmp_path):
    from rich.console import Console

    task, x = smooth_task(), samples(3)
    screen = Console(width=150, record=True, file=StringIO())
    curve = evaluate_robustness(task, x, "bim", epsilons=[0.05, 0.3], steps=3, progress=False)
    matrix = transfer_matrix({"[one]": task, "two": task}, x, "fgsm", progress=False)
    for one in (attacked(x, "pgd"), curve, matrix):
        screen.print(one.table())
    text = screen.export_text()
    assert "robust accuracy" in text
    assert "[one]" in text
    assert "pgd()" in text
    for name, one in (("curve", curve), ("matrix", matrix)):
        one.plot(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_success_rates_count_samples_that_were_right():
    task, x = smooth_task(), samples(4)
    right = attacked(x, "fgsm", task).label_before
    label = right.clone()
    label[1] = (label[1] + 1) % 5
    found = attacked(x, "pgd", task, eps=1e-6, label=label)
    assert found.correct.tolist() == [True, False, True, True]
    assert found.success_rate == found.to_dict()["success_rate"] == 0.0
    assert any("wrong about sample 1 already" in w for w in found.warnings)
    nobody = attacked(x, "pgd", task, eps=1e-6, label=(right + 1) % 5)
    assert nobody.to_dict()["success_rate"] is None
    aimed = attacked(x, "pgd", task, target=(right + 1) % 5, eps=0.3)
    assert bool(aimed.correct.all())


@pytest.mark.parametrize("form", [list, torch.as_tensor, "names"])
def test_a_target_and_a_label_for_every_sample(form):
    task, x = smooth_task(labels=list("abcde")), samples(4)
    before = attacked(x, "fgsm", task).label_before
    aims = ((before + 2) % 5).tolist()
    given = ["abcde"[i] for i in aims] if form == "names" else form(aims)
    settings = {"steps": 30, "progress": False}
    found = attacked(x, "bim", task, eps=0.5, alpha=0.05, target=given, steps=30)
    assert found.label.tolist() == aims
    curve = evaluate_robustness(task, x, "bim", epsilons=[0.01, 0.2, 0.6], target=given, **settings)
    for i, eps in enumerate(curve.epsilons):
        one = attacked(x, "bim", task, eps=eps, target=aims, steps=30)
        assert (curve.broken_at <= eps).tolist() == (one.success | (curve.broken_at < eps)).tolist(), i
    names = ["abcde"[i] for i in before.tolist()]
    assert (
        evaluate_robustness(task, x, "fgsm", epsilons=0.01, label=names, progress=False).clean_accuracy == 1
    )


def test_a_regression_has_no_class_to_leave():
    series = abe.series_task(torch.nn.Flatten(), "bt", output_kind="regression")
    with pytest.raises(SpecError, match="no two classes"):
        abe.attack(series, torch.rand(1, 4), progress=False)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(("name", "how"), [("bim", {"steps": 20}), ("pgd", {"steps": 20, "restarts": 2})])
def test_the_bar_of_an_attack_is_full_when_it_ends(
    name: str, how: dict[str, Any], n: int, monkeypatch: pytest.MonkeyPatch
):
    """Rows forward and backward, of every step and start, are what was expected, but for the judging."""
    bars: list[Progress] = []

    class Kept(Progress):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            bars.append(self)

    monkeypatch.setattr("abe.engines.runtime.request.Progress", Kept)
    abe.attack(smooth_task(), torch.rand(n, 3, 6, 6).double(), name, eps=1e-4, progress=True, **how)
    (bar,) = bars
    assert bar.total is not None
    assert 0.9 <= bar.done / bar.total <= 1.2
