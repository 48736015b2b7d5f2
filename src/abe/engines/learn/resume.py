"""A network and its optimiser as a checkpoint holds them: taken back only where every tensor fits."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from abe.schema import need, need_tensor

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of every parameter."""


def state_of(net: nn.Module, adam: torch.optim.Adam, *, weight: str, moment: str) -> dict[str, Tensor]:
    """The parameters and Adam's moments by name.

    Args:
        net: whose parameters.
        adam: their optimiser.
        weight: name of a parameter's tensor, as a format of the parameter's name: ``"net/{}"``.
        moment: of a moment's, of the parameter's name and the moment's: ``"adam/{}/{}"``.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in net.named_parameters():
        found[weight.format(name)] = parameter.detach()
        for key, number in adam.state[parameter].items():
            found[moment.format(name, key)] = torch.as_tensor(number).detach()
    return found


def put_back(
    net: nn.Module, adam: torch.optim.Adam, stored: Mapping[str, Tensor], *, weight: str, moment: str
) -> set[str]:
    """Copy what `state_of` gave; nothing is changed where something does not fit.

    Returns:
        The names that were read.

    Raises:
        MisfitError: a tensor is missing, of another shape or type, or not finite.
    """
    read: set[str] = set()
    for name, parameter in net.named_parameters():
        for place, shape in _places(name, tuple(parameter.shape), weight=weight, moment=moment).items():
            need_tensor(place, stored.get(place), shape)
            need(shape == () or stored[place].dtype == parameter.dtype, f"{place} is {stored[place].dtype}")
            read.add(place)
        need(float(stored[moment.format(name, "step")]) >= 1, f"{name} was never learnt")
        squares = stored[moment.format(name, "exp_avg_sq")]
        need(not squares.numel() or float(squares.min()) >= 0, f"the squares of {name} are negative")
    for name, parameter in net.named_parameters():
        with torch.no_grad():
            parameter.copy_(stored[weight.format(name)])
        averages = {k: stored[moment.format(name, k)].to(parameter.device, copy=True) for k in MOMENTS[1:]}
        adam.state[parameter] = {"step": stored[moment.format(name, "step")].clone(), **averages}
    return read


def _places(name: str, shape: tuple[int, ...], *, weight: str, moment: str) -> dict[str, tuple[int, ...]]:
    moments = {moment.format(name, key): () if key == "step" else shape for key in MOMENTS}
    return {weight.format(name): shape, **moments}
