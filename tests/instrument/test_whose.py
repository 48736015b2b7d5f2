"""Whose an error is: what our own code raises while a model runs is never said to be the model's."""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import abe
from abe import registry
from abe.engines.runtime.work import Pass
from abe.errors import Code, ModelError
from abe.spec import value
from abe.task.base import Task
from abe.testing import nets, samples, task_of
from abe.testing.methods import MethodCase, method_case

PACKAGE = Path(abe.__file__).parent
ENGINES = tuple(str(PACKAGE / folder) for folder in ("engines", "instrument", "task", "objectives", "units"))


FORWARD = inspect.unwrap(Pass._forward).__code__


class PlantedError(RuntimeError):
    """An exception of our own code."""


SOURCE = """
def tracer(frame, event, arg):
    if event == "call" and wanted(frame):
        raise PlantedError("planted")
"""


@contextmanager
def traced(wanted: Callable[[Any], bool]) -> Iterator[None]:
    """Raise `PlantedError` where ``wanted(frame)`` says so, as if a line of the package had raised it."""
    room: dict[str, Any] = {"wanted": wanted, "PlantedError": PlantedError}
    exec(compile(SOURCE, str(PACKAGE / "engines" / "planted.py"), "exec"), room)
    before = sys.gettrace()
    sys.settrace(room["tracer"])
    try:
        yield
    finally:
        sys.settrace(before)


def ours(frame: Any) -> bool:
    return frame.f_code.co_filename.startswith(ENGINES)


def in_model(frame: Any) -> bool:
    """Whether a frame was entered in the middle of the model's own call."""
    while frame is not None and frame.f_code is not FORWARD:
        if frame.f_code is nn.Module._call_impl.__code__:
            return in_forward(frame)
        frame = frame.f_back
    return False


def in_forward(frame: Any) -> bool:
    while frame is not None and frame.f_code is not FORWARD:
        frame = frame.f_back
    return frame is not None


def case_of(name: str) -> tuple[MethodCase, Any, Tensor]:
    case = method_case(name).coarser()
    return case, case.net(torch.float32), samples(1, dtype=torch.float32)


SOME = ("guided_backprop", "lrp_epsilon", "deeplift", "grad_cam", "raw_attention", "iba", "layer_conductance")
"""Some of every engine that runs code of ours inside a forward."""
METHODS = [
    pytest.param(name, marks=[] if name in SOME else [pytest.mark.slow]) for name in registry.methods.names()
]

MET: set[CodeType] = set()
"""Functions that were tried: a second method has no need of it."""


@pytest.mark.parametrize("name", METHODS)
def test_an_error_of_our_own_is_never_the_models(name: str) -> None:
    """Once in every function of the engines that runs in the middle of a model's forward."""
    case, net, x = case_of(name)
    met: list[CodeType] = []

    def look(frame: Any) -> bool:
        if frame.f_code not in MET and ours(frame) and in_model(frame.f_back):
            MET.add(frame.f_code)
            met.append(frame.f_code)
        return False

    with traced(look):
        case.explain(net, x)
    blamed = {}
    for code in met:
        case, net, x = case_of(name)
        waiting = [code]

        def here(frame: Any, waiting: list[CodeType] = waiting) -> bool:
            if waiting and frame.f_code is waiting[0] and in_model(frame.f_back):
                return bool(waiting.pop())
            return False

        try:
            with traced(here):
                case.explain(net, x)
        except Exception as problem:
            if not isinstance(problem, PlantedError) or not getattr(problem, "__notes__", ()):
                blamed[code.co_qualname] = f"{type(problem).__name__}: {problem}"
    assert blamed == {}


def test_the_trap_is_set() -> None:
    """Functions of rules and hooks were met, or nothing was shown."""
    MET.clear()
    test_an_error_of_our_own_is_never_the_models("grad_cam")
    test_an_error_of_our_own_is_never_the_models("lrp_epsilon")
    assert {"_Tap.__call__", "Session.__call__", "Epsilon.__call__"} <= {code.co_qualname for code in MET}


def test_an_error_before_the_model_is_called_is_not_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(self: Task, x: Tensor) -> Tensor:
        raise PlantedError("planted")

    monkeypatch.setattr(Task, "_normalise", moved(planted))
    with pytest.raises(PlantedError):
        abe.explain(task_of(nets.Smooth()), samples(1), "gradient", target=1, progress=False)


def moved(function: Any) -> Any:
    """A function whose code says that it stands in the package."""
    return FunctionType(
        function.__code__.replace(co_filename=str(PACKAGE / "engines" / "planted.py")),
        function.__globals__,
        function.__name__,
    )


@value
class Faulty:
    """A rule of a third party's, with a mistake of its own."""

    def __call__(self, step: Any) -> Any:
        raise KeyError("mine")


def test_an_error_of_a_rule_of_ones_own_is_not_the_models() -> None:
    method = abe.method("lrp_epsilon", rules=(("relu", Faulty()),))
    with pytest.raises(KeyError, match="mine"):
        abe.explain(task_of(nets.Convolutional()), samples(1).float(), method, target=1, progress=False)


# ---------------------------------------------------------------- the model's own


class Fails(nets.Convolutional):
    """Fails in the way it is told to."""

    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.how(x).sum()


def raises(x: Tensor) -> Tensor:
    raise ArithmeticError("simulated")


def operation(x: Tensor) -> Tensor:
    return x @ torch.ones(1, 5)


def python_of_torch(x: Tensor) -> Tensor:
    return F.multi_head_attention_forward(x, x, x, 1, 1, None, None, None, None, False, 0.0, None, None)


def composite(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x[..., :2], x)


def in_place(x: Tensor) -> Tensor:
    return x.clone().mul_(torch.ones(7))


def library(x: Tensor) -> Tensor:
    return x + json.loads("no json")


def module(x: Tensor) -> Tensor:
    return nn.Linear(5, 5)(x.flatten(1))


def raised_again(x: Tensor) -> Tensor:
    try:
        return operation(x)
    except RuntimeError as problem:
        raise ValueError("mine") from problem


def metadata(x: Tensor) -> Tensor:
    return x * x.size(7)


WAYS = (raises, operation, metadata, python_of_torch, composite, in_place, library, module, raised_again)
ENGINES_WITH = ("gradient", "guided_backprop", "lrp_epsilon", "deeplift", "grad_cam", "cam", "raw_attention")
ENGINES_WITH += ("occlusion", "iba", "layer_conductance", "mfaba", "extremal_perturbation")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", ENGINES_WITH)
def test_an_error_of_the_model_is_the_models(name: str, how: Callable[[Tensor], Tensor]) -> None:
    case = method_case(name).coarser()
    with pytest.raises(ModelError, match="model's forward raised") as caught:
        case.explain(Fails(how), samples(1).float())
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize("name", ["gradient", "lrp_epsilon", "grad_cam", "occlusion"])
def test_a_model_of_library_modules_alone_fails_as_itself(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7, 5))
    with pytest.raises(ModelError, match="mat1 and mat2"):
        method_case(name).coarser().explain(net, samples(1).float())


@pytest.mark.parametrize("name", ["gradient", "lrp_epsilon", "grad_cam"])
def test_a_model_may_catch_what_an_operation_of_it_raises(name: str) -> None:
    """Judging runs the operation once more, which leaves no trace."""

    def caught(x: Tensor) -> Tensor:
        try:
            return operation(x)
        except RuntimeError:
            return x.new_zeros(1)

    case, _, x = case_of(name)
    expected = case.map(Fails(lambda x: x.new_zeros(1)), x)
    torch.testing.assert_close(case.map(Fails(caught), x), expected, rtol=1e-6, atol=1e-7)
