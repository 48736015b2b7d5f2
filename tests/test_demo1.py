"""Demo 1 of the ABE paper, its import lines changed and nothing else."""

import numpy as np
import torch

from abe.explainers import *  # noqa: F403 - the demo imports so
from abe.explainers import IG, ExplanationTask, ModelType

generator = torch.Generator().manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3),
    torch.nn.BatchNorm2d(4),
    torch.nn.ReLU(),
    torch.nn.Flatten(),
    torch.nn.Linear(144, 5),
)
for parameter in model.parameters():
    parameter.data.normal_(0, 0.3, generator=generator)
sample_x = torch.rand(3, 3, 8, 8, generator=generator)
sample_y = torch.tensor([0, 3, 1])


def loss_fn(batch):
    x, y = batch
    logits = model(x)
    loss = -torch.diag(logits[:, y]).sum()
    return loss


def forward(batch):
    x, _ = batch
    return model(x)


def test_demo_1_runs_and_its_sum_is_the_change_of_each_samples_own_logit() -> None:
    explanation_task = ExplanationTask(
        loss_fn=loss_fn, forward_fn=forward, model_type=ModelType.IMAGECLASSIFICATION
    )
    explanation = IG(explanation_task, steps=200)
    attribution = explanation([sample_x, sample_y])

    model.eval()
    change = (model(sample_x) - model(torch.zeros_like(sample_x)))[torch.arange(3), sample_y].detach()
    model.train()
    array = np.asarray(attribution)
    assert array.shape == sample_x.shape
    missed = np.abs(array.sum((1, 2, 3)) - change.numpy())
    assert (missed <= 0.02 * np.abs(change.numpy())).all(), missed
    np.testing.assert_allclose(attribution.delta.numpy(), change.numpy(), rtol=1e-4)


def test_a_sample_does_not_depend_on_its_batch_although_the_demos_loss_sums_over_it() -> None:
    task = ExplanationTask(loss_fn=loss_fn, forward_fn=forward, model_type=ModelType.IMAGECLASSIFICATION)
    together = np.asarray(IG(task)([sample_x, sample_y]))
    alone = np.asarray(IG(task)([sample_x[1:2], sample_y[1:2]]))
    np.testing.assert_allclose(alone[0], together[1], atol=1e-6 * np.abs(together[1]).max() * 10)


def test_the_models_used_by_the_functions_are_found_and_left_in_training_mode() -> None:
    task = ExplanationTask(loss_fn=loss_fn, forward_fn=forward, model_type=ModelType.IMAGECLASSIFICATION)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    IG(task, steps=4)([sample_x, sample_y])
    assert all(module.training for module in model.modules())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
