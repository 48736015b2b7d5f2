"""Explainers that are trained: what they find, resumption to the last bit, and what goes wrong with data."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.baselines import Zero
from abe.engines.learn.explainers import (
    L2X,
    RTIS,
    CXPlain,
    Units,
    Untrained,
)
from abe.engines.learn.training import train, training_problem
from abe.engines.mask.noise import RunningStatistics
from abe.engines.runtime.stored import Weights, read
from abe.errors import Code, InputError, SpecError, StorageError
from abe.task.base import Context, Lifted
from abe.testing import nets, samples, task_of
from abe.testing.draws import RecordedDraws
from abe.testing.methods import check_method
from abe.testing.snapshot import Snapshot

METHODS = {
    "rtis": {},
    "l2x": {"cells": 3, "features": 2},
    "cxplain": {"cells": 3, "members": 2},
}
DATA = samples(40, seed=3, dtype=torch.float32)
BATCHES = list(DATA.split(8))


def fitted(name: str, data=BATCHES, **how):
    how = {"epochs": 2, **METHODS[name], **how}
    return abe.fit(task_of(nets.Convolutional()), data, name, **how)


def vectors(model: nn.Module) -> abe.Task:
    return abe.Task(model=model, modality="tabular", lifter=_as_is, output_kind="logits")


def _as_is(task, raw):
    return Lifted(raw, Context(), [str(i) for i in range(len(raw))])


class Switch(nn.Module):
    """Two classes; feature 0 says whether feature 1 or feature 2 decides."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(6.0))

    def forward(self, x: Tensor) -> Tensor:
        score = self.scale * torch.where(x[:, 0] > 0, x[:, 1], x[:, 2])
        return torch.stack([-score, score], 1)


class Corner(nn.Module):
    """Two classes, by the mean of a corner of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(30.0))

    def forward(self, x: Tensor) -> Tensor:
        score = self.scale * (x[:, :, :4, :4].mean((1, 2, 3)) - 0.5)
        return torch.stack([-score, score], 1)


# --- what is found --------------------------------------------------------------------------------


def one_feature(n: int = 512) -> tuple[nn.Module, Tensor]:
    """Only feature 3 of eight decides."""
    net = nn.Linear(8, 2)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[1, 3], net.weight[0, 3] = 5.0, -5.0
        net.bias.zero_()
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(1))
    return net, x


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("l2x", {"features": 1, "epochs": 15, "rate": 5e-3}),
        pytest.param("cxplain", {"epochs": 15, "rate": 5e-3}, marks=pytest.mark.slow),
        pytest.param("rtis", {"baseline": "zero", "epochs": 12, "rate": 5e-3}, marks=pytest.mark.slow),
    ],
)  # each learner finds something in the fast tests: L2X a feature, the others a corner
def test_the_feature_that_decides_is_found(name, settings):
    net, x = one_feature()
    task = vectors(net)
    learnt = abe.fit(task, x, name, **settings)
    unseen = torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    found = abe.explain(task, unseen, learnt, progress=False).attribution
    right = (found.argmax(1) == 3).float().mean()
    control = abe.explain(task, unseen, name, fitted=Untrained(), progress=False).attribution
    assert right > 0.95
    assert (control.argmax(1) == 3).float().mean() < 0.5


@pytest.mark.slow
def test_cxplain_learns_which_feature_decides_where():
    x = torch.randn(1024, 4, generator=torch.Generator().manual_seed(5))
    task = vectors(Switch())
    learnt = abe.fit(task, x, "cxplain", epochs=10, rate=1e-2)
    unseen = torch.randn(400, 4, generator=torch.Generator().manual_seed(6))
    unseen = unseen[unseen[:, 0].abs() > 0.3]
    found = abe.explain(task, unseen, learnt, progress=False).attribution
    assert (found[:, 3] < 0.05).float().mean() > 0.9  # never read
    wanted = torch.where(unseen[:, 0] > 0, found[:, 1] - found[:, 2], found[:, 2] - found[:, 1])
    clear = unseen[:, 1:3].abs().amin(1) > 0.5
    assert (wanted[clear] > 0).float().mean() > 0.8


@pytest.mark.parametrize("name", [pytest.param("l2x", marks=pytest.mark.slow), "cxplain", "rtis"])
def test_the_corner_of_an_image_is_found(name):
    x = torch.rand(256, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    x[:, :, :4, :4] = (x[:, :, :4, :4] + torch.rand(256, 1, 1, 1) * 2 - 1).clamp(0, 1)
    task = abe.image_task(Corner(), channels=1, output_kind="logits")
    settings = {"baseline": 0.5} | ({} if name == "rtis" else {"cells": 2})
    if name == "l2x":
        settings |= {"features": 1}
    learnt = abe.fit(task, x[:200], name, epochs=12, rate=1e-2, **settings)
    found = abe.explain(task, x[200:], learnt, progress=False).attribution
    inside = found[:, :, :4, :4].flatten(1).mean(1)
    assert (inside > 1.5 * found.flatten(1).mean(1)).float().mean() > 0.9


def test_shares_of_cxplain_by_a_loop():
    net, x = nets.Smooth().eval(), samples(2)
    problem = training_problem(task_of(net), x, 0)
    units = Units((3, 6, 6), 3)
    found = CXPlain(baseline=Zero(), cells=3).shares(problem, units)
    log_p = torch.log_softmax(net(x), 1).detach()
    for i in range(2):
        c = int(problem.target[i])
        rises = []
        for row in range(3):
            for column in range(3):
                gone = x[i].clone()
                gone[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 0
                after = torch.log_softmax(net(gone[None]), 1)[0, c].detach()
                rises.append(max(float(log_p[i, c] - after), 0.0))
        expected = torch.tensor(rises, dtype=torch.float64)
        torch.testing.assert_close(found[i], expected / expected.sum())


def test_loss_of_rtis_by_its_formula():
    """The slope of the loss that the planner puts together is the slope of the formula."""
    net, x = nets.Smooth().eval(), samples(2)
    problem = training_problem(task_of(net), x, 0)
    recipe = RTIS(baseline=Zero())
    learner = recipe.build(problem, 0)
    parameters = list(learner.parameters())
    found = torch.autograd.grad(recipe.loss(learner, problem, 0), parameters)
    mask = torch.sigmoid(learner.scorers[0](x, problem.target))
    target = problem.target[:, None]
    keep = torch.log_softmax(net(mask * x), 1).gather(1, target)[:, 0]
    lose = torch.softmax(net((1 - mask) * x), 1).gather(1, target)[:, 0]
    steps = [mask.diff(dim=a).square().flatten(1).mean(1) for a in (2, 3)]
    loss = 2 * mask.flatten(1).mean(1) + 10 * (steps[0] + steps[1]) - keep + 5 * lose**0.3
    for one, other in zip(found, torch.autograd.grad(loss.mean(), parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_loss_of_l2x_by_its_formula():
    net, x = nets.Smooth().eval(), samples(2)
    draws = RecordedDraws()
    problem = training_problem(task_of(net), x, 0)
    problem.draws = draws
    recipe = L2X(baseline=Zero(), features=2, cells=3)
    learner = recipe.build(problem, 0)
    found = recipe.loss(learner, problem, 4)
    units = Units((3, 6, 6), 3)
    logits = torch.log_softmax(units.pooled(learner.scorers[0](x, problem.target)), 1)
    total = 0.0
    for i in range(2):
        u = draws.recorded["l2x.gumbel"][problem.ids[i], 4].double()
        chosen = [torch.softmax((logits[i] - torch.log(-torch.log(u[k]))) / 0.1, 0) for k in range(2)]
        v = torch.maximum(*chosen).view(3, 3).repeat_interleave(2, 0).repeat_interleave(2, 1)
        said = torch.softmax(net(x[i : i + 1]), 1)[0]
        total = total - (said * learner.approximator((v * x[i])[None])[0]).sum() / 2
    torch.testing.assert_close(found, total, rtol=1e-6, atol=0)


def test_members_give_standard_errors_and_their_mean():
    learnt = fitted("cxplain", members=3)
    found = abe.explain(task_of(nets.Convolutional()), DATA[:2], learnt, progress=False)
    assert found.standard_error.min() > 0
    torch.testing.assert_close(found.attribution.flatten(1).sum(1), torch.ones(2))
    single = fitted("cxplain", members=1)
    assert abe.explain(task_of(nets.Convolutional()), DATA[:2], single, progress=False).standard_error is None


def test_running_moments_are_those_of_all_at_once():
    x = 1e3 + torch.randn(50, 4, dtype=torch.float64)
    x[:30, 2] = 0
    moments = RunningStatistics()
    for part in x.split([7, 1, 30, 12]):
        moments.add(part)
    found = moments.statistics("input").weights
    torch.testing.assert_close(found["mean"], x.mean(0).float())
    torch.testing.assert_close(found["std"], x.std(0).float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["active"], torch.tensor([1.0, 1.0, 0.4, 1.0]))


# --- kept, restored, resumed ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [*METHODS, "iba"])
def test_what_was_learnt_survives_the_disk(name, tmp_path):
    task = task_of(nets.Convolutional())
    learnt = abe.fit(task, BATCHES, "iba") if name == "iba" else fitted(name)
    path = learnt.save(tmp_path / "learnt.safetensors")
    back = abe.load_fitted(path)
    assert back == learnt
    assert hash(back) == hash(learnt)
    first = abe.explain(task, DATA[:3], learnt, progress=False)
    again = abe.explain(task, DATA[:3], name, fitted=str(path), progress=False)
    assert torch.equal(first.attribution, again.attribution)
    assert first.method == again.method == name


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("stop", [1, 3, 5, 8])
def test_an_interrupted_training_goes_on_to_the_same_result(name, stop, tmp_path):
    whole = fitted(name, epochs=2)
    file = tmp_path / "checkpoint.safetensors"

    class Killed(BaseException):
        """As a signal would do it."""

    seen = 0

    class Loader(list):
        def __iter__(self):
            nonlocal seen
            for batch in super().__iter__():
                seen += 1
                if seen > stop:
                    raise Killed
                yield batch

    with pytest.raises(Killed):
        fitted(name, Loader(BATCHES), epochs=2, checkpoint=file)
    resumed = fitted(name, epochs=2, checkpoint=file)
    assert resumed == whole
    longer = fitted(name, epochs=3, checkpoint=file)
    assert longer == fitted(name, epochs=3)


def test_a_crash_between_checkpoints_repeats_what_came_after_the_last(tmp_path):
    file, kept = tmp_path / "checkpoint.safetensors", tmp_path / "as it was at the crash"

    class Loader(list):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__(), start=1):
                if number == 4:  # three batches are learnt, two of them are in the file
                    kept.write_bytes(file.read_bytes())
                yield batch

    whole = fitted("l2x", Loader(BATCHES), epochs=1, checkpoint=file, every=2)
    assert read(kept)[0]["place"]["batch"] == 2
    assert fitted("l2x", epochs=1, checkpoint=kept) == whole


def test_other_batches_after_an_interruption_are_noticed(tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    with pytest.warns(UserWarning, match="failed"):
        fitted("l2x", _failing(3), checkpoint=file, epochs=1)
    shuffled = [BATCHES[i] for i in (4, 0, 3, 1, 2)]
    with pytest.warns(UserWarning, match="other batches"):
        found = fitted("l2x", shuffled, checkpoint=file, epochs=1)
    assert "ABE-TRAINING-DATA" in found.notes[0]


def test_the_model_and_the_generators_are_left_as_found():
    net = nets.Convolutional()
    net.train()
    before = Snapshot(net)
    abe.fit(task_of(net), BATCHES, "rtis", epochs=1)
    abe.fit(task_of(net), BATCHES, "iba")
    assert before.changes() == []


def test_the_seed_decides_and_nothing_else():
    assert fitted("l2x") == fitted("l2x")
    assert fitted("l2x") != fitted("l2x", seed=1)
    torch.manual_seed(99)
    assert fitted("rtis") == fitted("rtis")


def test_labels_of_the_loader_are_the_targets():
    pairs = [(x, torch.zeros(len(x), dtype=torch.long)) for x in BATCHES]
    assert fitted("cxplain", pairs) != fitted("cxplain")
    problem = training_problem(task_of(nets.Convolutional().eval()), list(pairs[0]), 0)
    assert problem.target.tolist() == [0] * 8


def test_laws_hold_for_something_learnt():
    shown = abe.fit(task_of(nets.Smooth()), samples(16), "cxplain", epochs=1, cells=3)
    single = fitted("cxplain")
    laws = ["batch", "order", "chunk", "determinism", "randomness", "cost", "restored", "spec"]
    for one in (shown, single):
        check_method(one, only=laws)


# --- what goes wrong with data --------------------------------------------------------------------


def _failing(after: int, batches=BATCHES):
    class Loader:
        def __iter__(self):
            yield from batches[:after]
            raise OSError("the disk is gone")

    return Loader()


@pytest.mark.parametrize("name", [*METHODS, "iba"])
def test_a_loader_that_fails_half_way_keeps_what_was_learnt_and_says_so(name, tmp_path):
    task = task_of(nets.Convolutional())
    file = tmp_path / "checkpoint.safetensors"
    how = {} if name == "iba" else {"epochs": 1, **METHODS[name]}
    kept = {} if name == "iba" else {"checkpoint": file}
    with pytest.warns(UserWarning, match="the disk is gone"):
        found = abe.fit(task, _failing(3), name, **how, **kept)
    assert found.weights == abe.fit(task, BATCHES[:3], name, **how).weights
    if name != "iba":
        assert found.samples == 24
        assert fitted(name, checkpoint=file).weights == fitted(name).weights  # mended, it goes on
    shown = abe.explain(task, DATA[:2], found, progress=False)
    assert any("the disk is gone" in w and "ABE-TRAINING-DATA" in w for w in shown.warnings)


@pytest.mark.parametrize("name", METHODS)
def test_a_loader_that_ends_early_keeps_what_was_learnt_and_says_so(name):
    with pytest.warns(UserWarning, match="ended early, after 0 of 5 batches of epoch 2"):
        found = fitted(name, iter(BATCHES), epochs=3)
    assert found.epochs == 1
    assert found.weights == fitted(name, epochs=1).weights
    assert any("epoch 2" in n for n in found.notes)

    class Short(list):
        def __iter__(self):
            return iter(BATCHES[:2])

    with pytest.warns(UserWarning, match="after 2 of 5 batches of epoch 1"):
        found = fitted(name, Short(BATCHES), epochs=1)
    assert found.samples == 16


@pytest.mark.parametrize("data", [[], torch.empty(0, 3, 6, 6), [DATA[:1]], None, "folder", 3])
@pytest.mark.parametrize("name", ["l2x", "iba"])
def test_nothing_to_learn_from(data, name):
    with pytest.raises(InputError) as problem:
        abe.fit(task_of(nets.Convolutional()), data, name)
    assert problem.value.code in (Code.TRAINING_DATA, Code.EMPTY_BATCH)


@pytest.mark.parametrize("name", ["l2x", "iba"])
def test_a_loader_that_fails_at_once(name):
    with pytest.raises(InputError, match="before its first batch"):
        abe.fit(task_of(nets.Convolutional()), _failing(0), name)


def test_batches_of_different_shapes(tmp_path):
    mixed = [BATCHES[0], samples(4, dtype=torch.float32, shape=(3, 8, 8))]
    net = nn.Sequential(nn.AdaptiveAvgPool2d(6), nets.Convolutional())
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InputError, match="another shape") as problem:
        abe.fit(task_of(net), mixed, "l2x", checkpoint=file, **METHODS["l2x"])
    assert problem.value.code is Code.SHAPE
    assert read(file)[0]["place"]["samples"] == 8  # kept
    with pytest.raises(InputError, match="another shape"):
        abe.fit(task_of(net), mixed, "iba", layer="input")


def test_inputs_or_classes_it_was_not_trained_for():
    learnt = fitted("cxplain")
    net = nn.Sequential(nn.AdaptiveAvgPool2d(6), nets.Convolutional())
    with pytest.raises(InputError, match="another shape") as problem:
        abe.explain(task_of(net), samples(1, dtype=torch.float32, shape=(3, 8, 8)), learnt, progress=False)
    assert problem.value.code is Code.FITTED
    wide = nn.Sequential(nn.Flatten(), nn.Linear(108, 9))
    with pytest.raises(InputError, match="classes"):
        abe.explain(task_of(wide), DATA[:1], learnt, target=8, progress=False)
    with pytest.raises(InputError, match="not fitted for rtis"):
        abe.method("rtis", fitted=learnt)


def test_checkpoints_that_are_none_or_of_another_training(tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    fitted("l2x", checkpoint=file)
    for other in ({"seed": 3}, {"rate": 0.5}):
        with pytest.raises(StorageError, match="another training") as problem:
            fitted("l2x", checkpoint=file, **other)
        assert problem.value.code is Code.FOREIGN_FILE
    with pytest.raises(StorageError, match="unfinished training"):
        abe.load_fitted(file)
    with pytest.raises(StorageError, match="no such file"):
        abe.load_fitted(tmp_path / "nowhere")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StorageError) as broken:
        fitted("l2x", checkpoint=file)
    assert broken.value.code is Code.CORRUPT_FILE
    file.write_bytes(b"nothing")
    with pytest.raises(StorageError):
        fitted("l2x", checkpoint=file)
    learnt = fitted("rtis", epochs=1)
    with pytest.raises(StorageError) as unwritten:
        learnt.save(file / "below" / "a file")
    assert unwritten.value.code is Code.NOT_WRITTEN


def test_settings_that_do_not_exist():
    task = task_of(nets.Convolutional())
    with pytest.raises(SpecError, match="Did you mean 'features'"):
        abe.fit(task, BATCHES, "l2x", feature=3)
    with pytest.raises(SpecError, match="nothing to learn"):
        abe.fit(task, BATCHES, "ig")
    with pytest.raises(SpecError, match="no checkpoint"):
        abe.fit(task, BATCHES, "iba", checkpoint="x")
    with pytest.raises(SpecError, match="All units"):
        abe.fit(task, BATCHES, "l2x", features=9, cells=3)
    with pytest.raises(SpecError):
        abe.fit(task, BATCHES, "l2x", epochs=0)
    regression = abe.image_task(nets.Convolutional(), output_kind="regression")
    labelled = [(BATCHES[0], torch.zeros(8, 1, dtype=torch.long))]
    with pytest.raises(SpecError, match="classes apart"):
        abe.fit(regression, labelled, "rtis")


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "cells"), [((3, 6, 6), 3), ((1, 7, 5), 3), ((2, 9), 4), ((5,), 8)])
def test_units_tile_the_input_and_shares_sum(shape, cells):
    units = Units(shape, cells)
    assert int(units.sizes.sum()) == math.prod(shape[1:] or shape)
    assert (units.sizes > 0).all()
    values = torch.rand(2, units.count, dtype=torch.float64)
    x = torch.rand(2, *shape, dtype=torch.float64)
    torch.testing.assert_close(units.shares(values, x).flatten(1).sum(1), values.sum(1))
    back = units.spread(values)
    torch.testing.assert_close(units.pooled(back.view(2, *back.shape[1:])), values)


def test_weights_are_equal_where_their_contents_are():
    one, other = (
        Weights({"a": torch.ones(2), "b": torch.zeros(1)}),
        Weights({"b": torch.zeros(1), "a": torch.ones(2)}),
    )
    assert one == other
    assert hash(one) == hash(other)
    assert one != Weights({"a": torch.ones(2)})
    changed = torch.ones(2)
    kept = Weights({"a": changed, "b": torch.zeros(1)})
    changed[0] = 5
    assert kept == one


def test_a_recipe_of_ones_own_is_trained_like_the_others(tmp_path):
    class Mean:
        rate = 0.05

        def settings(self):
            return {"recipe": "mean"}

        def build(self, problem, seed):
            return nn.Linear(1, 1, bias=False).to(problem.x)

        def loss(self, net, problem, epoch):
            return (net.weight - problem.x.mean()).square().sum()

    task = task_of(nets.Convolutional())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = train(task, BATCHES, Mean(), epochs=60, checkpoint=tmp_path / "mean")
    assert float(found.weights["weight"]) == pytest.approx(float(DATA.mean()), abs=0.02)
