"""Networks and optimisers come back from a checkpoint as they were, or not at all."""

import pytest
import torch
from torch import nn

from abe.engines.learn.networks import Scorer
from abe.engines.learn.resume import put_back, state_of
from abe.schema import MisfitError

NAMES = {"weight": "net/{}", "moment": "adam/{}/{}"}


def trained(steps: int = 3) -> tuple[nn.Module, torch.optim.Adam]:
    net = nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(steps):
        adam.zero_grad()
        net(torch.rand(4, 3)).square().sum().backward()
        adam.step()
    return net, adam


def test_what_was_kept_goes_on_as_if_nothing_had_been():
    net, adam = trained()
    other, its = trained(1)
    kept = {k: v.clone() for k, v in state_of(net, adam, **NAMES).items()}
    assert put_back(other, its, kept, **NAMES) == set(kept)
    x = torch.rand(5, 3)
    for one, optimiser in ((net, adam), (other, its)):
        optimiser.zero_grad()
        one(x).square().sum().backward()
        optimiser.step()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    assert all(torch.equal(kept[k], v) for k, v in kept.items())  # not written to by going on


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("net/weight", lambda t: t[:1]),
        ("net/weight", lambda t: t.double()),
        ("net/bias", lambda t: t * float("nan")),
        ("adam/weight/exp_avg", lambda t: t.T),
        ("adam/weight/exp_avg_sq", lambda t: -t - 1),
        ("adam/bias/step", lambda t: t * 0),
        ("adam/bias/step", lambda t: t[None]),
    ],
)
def test_what_does_not_fit_changes_nothing(name, change):
    net, adam = trained()
    kept = {k: v.clone() for k, v in state_of(net, adam, **NAMES).items()}
    before = {k: v.clone() for k, v in kept.items()}
    with pytest.raises(MisfitError):
        put_back(net, adam, {**kept, name: change(kept[name])}, **NAMES)
    with pytest.raises(MisfitError):
        put_back(net, adam, {k: v for k, v in kept.items() if k != name}, **NAMES)
    assert all(torch.equal(v, before[k]) for k, v in state_of(net, adam, **NAMES).items())


@pytest.mark.parametrize("shape", [(5,), (3, 6), (2, 7, 5)])
@pytest.mark.parametrize("classes", [0, 4])
def test_shapes_of_a_scorer_are_known_without_making_one(shape, classes):
    made = {name: tuple(p.shape) for name, p in Scorer(shape, classes, 3).named_parameters()}
    assert Scorer.shapes(shape, classes, 3) == made
