"""However two functions refer to their modules, these are found, run in evaluation mode and left as found."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import abe
from abe.explainers import IG, SM, Explainer, ExplanationTask, GradCAM

x, y = torch.rand(3, 3, 8, 8), torch.tensor([0, 3, 1])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 5)
    )


Functions = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def closures(model: nn.Module) -> Functions:
    return lambda batch: F.cross_entropy(model(batch[0]), batch[1]), lambda batch: model(batch[0])


def nested(model: nn.Module) -> Functions:
    def run(x: Tensor) -> Tensor:
        return model(x)

    def logits(batch: Any) -> Tensor:
        return run(batch[0])

    return lambda batch: F.cross_entropy(logits(batch), batch[1]), logits


class Trainer:
    """A plain class that holds a model, as training scripts have it."""

    def __init__(self, model: nn.Module) -> None:
        self.parts = {"net": model, "notes": ["nothing"]}
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, batch: Any) -> Tensor:
        return self.parts["net"](batch[0])

    def loss(self, batch: Any) -> Tensor:
        return self.criterion(self.forward(batch), batch[1])


def methods_of_a_class(model: nn.Module) -> Functions:
    trainer = Trainer(model)
    return trainer.loss, trainer.forward


def partials(model: nn.Module) -> Functions:
    def loss(network: nn.Module, scale: float, batch: Any) -> Tensor:
        return scale * F.cross_entropy(network(batch[0]), batch[1])

    return partial(loss, model, 1.0), partial(lambda batch, network: network(batch[0]), network=model)


class Called:
    """An object that is called."""

    def __init__(self, model: nn.Module, loss: bool) -> None:
        self.model, self.asked = model, loss

    def __call__(self, batch: Any) -> Tensor:
        logits = self.model.forward(batch[0])
        return F.cross_entropy(logits, batch[1]) if self.asked else logits


def objects(model: nn.Module) -> Functions:
    return Called(model, loss=True), Called(model, loss=False)


def hidden(model: nn.Module) -> Functions:
    """Behind a generator, where nothing that looks at the functions finds it."""

    def forever() -> Any:
        while True:
            yield model

    held = forever()
    return lambda batch: F.cross_entropy(next(held)(batch[0]), batch[1]), lambda batch: next(held)(batch[0])


WAYS = [closures, nested, methods_of_a_class, partials, objects, hidden]


@pytest.mark.parametrize("way", WAYS)
def test_modules_are_found_and_left_as_found(way: Callable[[nn.Module], Functions]) -> None:
    model, plain = network(), network()
    model.train()
    model[0].eval()
    model[5].weight.grad = torch.ones_like(model[5].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = dict(vars(model))
    made = IG(ExplanationTask(*way(model)), steps=4)([x, y], progress=False)
    theirs = abe.explain(
        abe.image_task(plain), x, "ig", steps=4, target=y, objective="log_probability", progress=False
    )
    np.testing.assert_allclose(made.attribution, theirs.attribution, atol=1e-6)
    assert [one.training for one in model.modules()] == [True, False, True, True, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert bool((model[5].weight.grad == 1).all())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert vars(model) == kept


@pytest.mark.parametrize("layer", ["2", "0", None])
def test_layers_have_the_names_of_the_model(layer: str | None) -> None:
    model = network()
    made = GradCAM(ExplanationTask(*methods_of_a_class(model)), layer=layer)([x, y], progress=False)
    theirs = abe.explain(
        abe.image_task(model),
        x,
        "grad_cam",
        layer=layer,
        target=y,
        objective="log_probability",
        progress=False,
    )
    np.testing.assert_allclose(made.attribution, theirs.attribution, atol=1e-6)
    assert made.attribution.any()


def test_a_variable_may_be_called_like_a_part_of_its_model() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert, self.criterion = network(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.criterion(self.bert(x))

    bert, criterion = Wrapped(), nn.CrossEntropyLoss()
    task = ExplanationTask(lambda batch: criterion(bert(batch[0]), batch[1]), lambda batch: bert(batch[0]))
    assert GradCAM(task, layer="bert.2")([x, y], progress=False).attribution.any()
    names = [name for name, _ in task.task.model.named_modules()]
    assert len(set(names) - {""}) == len(names) - 2  # the functions and the model itself
    for name in names:
        assert name in ("", "criterion_") or isinstance(task.task.model.get_submodule(name), nn.Module)


def test_names_of_several_models_have_the_variable_in_front() -> None:
    body, head = network()[:4], nn.Linear(144, 5)
    task = ExplanationTask(
        lambda batch: F.cross_entropy(head(body(batch[0])), batch[1]), lambda batch: head(body(batch[0]))
    )
    assert GradCAM(task, layer="body.2")([x, y], progress=False).attribution.any()
    with pytest.raises(abe.AbeError, match="Did you mean 'body"):
        GradCAM(task, layer="body.9")([x, y], progress=False)


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_the_model_stands_in_for_the_users(way: Callable[[nn.Module], Functions]) -> None:
    """Metrics that randomise weights run copies; a copy that ran the original would show nothing."""
    model = network()
    task = ExplanationTask(*way(model))
    given, _ = task.prepare([x, y])
    other = copy.deepcopy(task.task.model).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        assert not task.task.forward(given.x, given.context, other).any()
        task.task.model.eval()
        assert task.task.forward(given.x, given.context).any()


def test_parameters_that_are_used_without_their_module_count_too() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 192))

    bag = Bag()

    def forward(batch: Any) -> Tensor:
        return F.linear(batch[0].flatten(1), bag.weight)

    made = SM(ExplanationTask(lambda batch: F.cross_entropy(forward(batch), batch[1]), forward))(
        [x, y], progress=False
    )
    log_p = F.log_softmax(forward([leaf := x.clone().requires_grad_(True)]), 1)
    (expected,) = torch.autograd.grad(log_p.gather(1, y[:, None]).sum(), leaf)
    np.testing.assert_allclose(made.attribution, expected, atol=1e-5)
    assert bag.weight.requires_grad


def test_modules_made_inside_the_functions_need_no_name() -> None:
    model = network()
    task = ExplanationTask(
        lambda batch: nn.CrossEntropyLoss()(model(batch[0]), batch[1]), lambda batch: model(batch[0])
    )
    assert SM(task)([x, y], progress=False).objective == "LogProbability"


def test_a_variable_may_hold_another_model_later() -> None:
    model = network()
    task = ExplanationTask(
        lambda batch: F.cross_entropy(model(batch[0]), batch[1]), lambda batch: model(batch[0])
    )
    SM(task)([x, y], progress=False)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 5)).train()
    made = SM(task)([x, y], progress=False)
    theirs = abe.explain(
        abe.image_task(model), x, "gradient", target=y, objective="log_probability", progress=False
    )
    np.testing.assert_allclose(made.attribution, theirs.attribution, atol=1e-6)
    assert model.training


def test_weights_made_inside_the_functions_are_refused() -> None:
    task = ExplanationTask(lambda batch: nn.Linear(192, 1)(batch[0].flatten(1)).sum())
    with pytest.raises(abe.AbeError, match="ABE-MODEL-FAILED"):
        SM(task)([x, y], progress=False)


def test_a_failing_function_is_named_and_its_cause_kept() -> None:
    model = network()
    task = ExplanationTask(lambda batch: batch[7], lambda batch: model(batch[0]))
    with pytest.raises(abe.AbeError, match=r"loss_fn raised an exception.*IndexError") as caught:
        SM(task)([x, y], progress=False)
    assert isinstance(caught.value.__cause__, IndexError)
    task = ExplanationTask(lambda batch: model(batch[0]).sum(), lambda model, batch: model(batch))  # type: ignore[arg-type,misc]
    with pytest.raises(abe.AbeError, match="forward_fn raised an exception"):
        SM(task)([x, y], progress=False)


def test_a_loss_of_several_numbers_is_refused() -> None:
    model = network()
    with pytest.raises(abe.AbeError, match="loss_fn must return one number"):
        SM(ExplanationTask(lambda batch: model(batch[0])))([x, y], progress=False)


def test_any_method_of_abe_is_bound_by_name() -> None:
    task = ExplanationTask(*closures(network()))
    made = Explainer(task, "lrp_epsilon")([x, y], progress=False)
    theirs = abe.explain(
        abe.image_task(network()), x, "lrp_epsilon", target=y, objective="log_probability", progress=False
    )
    np.testing.assert_allclose(made.attribution, theirs.attribution, atol=1e-6)
    with pytest.raises(abe.AbeError, match="Did you mean"):
        Explainer(task, "lrp_epsilom")
    with pytest.raises(abe.AbeError, match="IG is a method already"):
        IG(task, "lrp_epsilon")
    with pytest.raises(abe.AbeError, match="Name a method"):
        Explainer(task)
