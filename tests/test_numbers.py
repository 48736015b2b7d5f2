"""Numbers of any library are Python's own once they are kept; what is no number is refused by name."""

import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config
from torch import nn

import abe
from abe import registry
from abe.checks import check_of, plain
from abe.errors import AbeError, SpecError
from abe.spec import from_spec, to_spec

KINDS = ("methods", "metrics", "updates", "units", "baselines", "paths", "removals", "summaries")


@pytest.fixture(autouse=True)
def _no_checks_of_types():
    """What users hand in, no type checker has read."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def kinds_of(annotation: Any) -> list[Any]:
    """Every type that an annotation names, at any depth."""
    inner = get_args(annotation)
    return [kind for one in inner for kind in kinds_of(one)] if inner else [annotation]


def parameters() -> list[Any]:
    """Every numeric parameter of everything that is registered."""
    found = []
    for kind in KINDS:
        for entry in getattr(registry, kind).entries():
            missing = set(entry.required()) - set(entry.own.example)
            for name, parameter in entry.parameters().items() if not missing else ():
                kinds = kinds_of(parameter.annotation)
                if int in kinds or float in kinds:
                    several = any(word in str(parameter.annotation) for word in ("tuple", "Sequence"))
                    case = (kind, entry, name, parameter.default, several)
                    found.append(pytest.param(*case, id=f"{entry.kind}-{entry.name}-{name}"))
    return found


def made(kind: str, entry: registry.Entry, **params: Any) -> Any:
    example = dict(entry.own.example) if entry.required() else {}
    return getattr(registry, kind).make(entry.name, **{**example, **params})


def spelled(number: Any) -> list[Any]:
    """The same number as NumPy, PyTorch and the standard library have it."""
    if isinstance(number, int):
        return [np.int64(number), np.int16(number), torch.tensor(number), np.array(number)]
    tensor = torch.tensor(number, dtype=torch.float64)
    return [np.float64(number), tensor, np.array(number), Fraction(number)]


PARAMETERS = parameters()
NO_NUMBERS = [
    *(
        "eight",
        "",
        b"8",
        {},
        {"a": 1},
        object(),
        1j,
        np.complex64(1),
        [["8"]],
        np.ones((2, 2)),
        torch.ones(2, 2),
    ),
    *(math.nan, math.inf, -math.inf, np.float32("nan"), torch.tensor(math.inf), True, np.True_),
    *(torch.tensor(True), 10**400, -(10**400), Fraction(10**400), Decimal("0.5")),
]


@pytest.mark.parametrize(("kind", "entry", "name", "default", "several"), PARAMETERS)
def test_a_number_is_the_same_however_it_is_spelled(kind, entry, name, default, several):
    numbers = default if isinstance(default, tuple) else (default,)
    if not all(type(number) in (int, float) for number in numbers):
        pytest.skip("by default no number")
    wanted = to_spec_or_repr(made(kind, entry, **{name: default}))
    for spellings in zip(*map(spelled, numbers), strict=True):
        given = list(spellings) if isinstance(default, tuple) else spellings[0]
        assert to_spec_or_repr(made(kind, entry, **{name: given})) == wanted
    if isinstance(default, tuple):
        assert to_spec_or_repr(made(kind, entry, **{name: np.array(default)})) == wanted
        assert (
            to_spec_or_repr(made(kind, entry, **{name: torch.tensor(default, dtype=torch.float64)})) == wanted
        )


def to_spec_or_repr(made: Any) -> str:
    """What is written down, to the type of every number."""
    try:
        return json.dumps(to_spec(made))
    except SpecError:
        return repr(made)


@pytest.mark.parametrize(("kind", "entry", "name", "default", "several"), PARAMETERS)
def test_what_is_no_number_is_refused_by_name(kind, entry, name, default, several):
    for bad in NO_NUMBERS:
        with pytest.raises(AbeError) as caught:
            made(kind, entry, **{name: bad})
        assert name in str(caught.value), bad
    if not several:
        for bad in ([8], (8,), np.ones(3), torch.ones(1), range(3)):
            with pytest.raises(AbeError, match=name):
                made(kind, entry, **{name: bad})


@given(st.integers(1, 64))
def test_methods_of_one_number_are_one_method(steps):
    wanted = abe.method("ig", steps=steps)
    for one in (np.int64(steps), np.int32(steps), torch.tensor(steps), np.array(steps)):
        found = abe.method("ig", steps=one)
        assert found == wanted
        assert hash(found) == hash(wanted)
        assert str(found) == str(wanted)
        assert json.dumps(to_spec(found)) == json.dumps(to_spec(wanted))
        assert from_spec(json.loads(json.dumps(to_spec(found)))) == wanted


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["f", "d", "F"]))
def test_plain_keeps_the_number(number, form):
    forms = {"f": np.float64(number), "d": torch.tensor(number, dtype=torch.float64), "F": Fraction(number)}
    assert type(plain(forms[form])) is float
    assert plain(forms[form]) == number


def test_numbers_within_parameters():
    assert abe.method("shapley", units=("grid", {"n": np.int64(2)})) == abe.method(
        "shapley", units=("grid", {"n": 2})
    )
    assert abe.method("agi", classes=np.array([1, 2])) == abe.method("agi", classes=(1, 2))
    assert abe.method("grad_cam", relu=np.True_) == abe.method("grad_cam", relu=True)
    with pytest.raises(SpecError, match="relu must be True or False"):
        abe.method("grad_cam", relu="no")


def test_text_is_told_to_lose_its_quotation_marks():
    with pytest.raises(SpecError, match=r"eps must be .*quotation marks"):
        registry.updates.make("pgd", eps="8/255")


def test_an_unknown_parameter_without_a_near_name_ends_in_its_code():
    with pytest.raises(SpecError, match=r"variant\. \[ABE-UNKNOWN-PARAMETER\]$"):
        abe.method("ig", qqqqqq=1)


def test_annotations_say_what_is_checked():
    assert check_of(int)("n", np.int8(3)) == 3
    assert check_of(int | float)("n", np.float32(0.5)) == 0.5
    assert check_of(float | tuple[float, ...])("n", [np.float32(0.5), 1]) == (0.5, 1)
    assert check_of(tuple[float, ...])("n", 0.5) == (0.5,)
    assert check_of(str) is check_of(str | int) is check_of(Any) is None


# -- functions ---------------------------------------------------------------------------------------------

X = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def task(**how: Any) -> Any:
    torch.manual_seed(0)
    return abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double().float().eval(), **how)


def explained(**how: Any) -> Any:
    return abe.explain(task(), X, "smoothgrad", target=0, progress=False, samples=2, **how).attribution


def curve(epsilons: Any) -> list[float]:
    found = abe.evaluate_robustness(task(), X, "fgsm", epsilons=epsilons, progress=False)
    return [*found.epsilons, *found.robust_accuracy]


def scored(**how: Any) -> Any:
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = abe.evaluate(task(), {"m": maps}, ["insertion"], data=X, progress=False, **how)
    return found.scores["m"]["insertion"].values


CALLS = {
    "seed": (lambda n: explained(seed=n), 3),
    "chunk": (lambda n: explained(chunk=n), 3),
    "steps": (lambda n: abe.attack(task(), X, "pgd", steps=n, progress=False).x_adv, 3),
    "restarts": (lambda n: abe.attack(task(), X, "pgd", restarts=n, progress=False).x_adv, 2),
    "eps": (lambda n: abe.attack(task(), X, "pgd", eps=n, progress=False).x_adv, 0.125),
    "epsilons": (curve, 0.125),
    "step": (lambda n: scored(step=n), 0.25),
    "confidence": (lambda n: scored(confidence=n), 0.75),
    "size": (lambda n: task(size=n).lifter, 16),
    "channels": (lambda n: task(channels=n).lifter, 3),
    "mean": (lambda n: task(mean=n).mean, 0.5),
    "std": (lambda n: task(std=n).std, 0.5),
    "bounds": (lambda n: task(bounds=(0, n)).high, 0.5),
}


@pytest.mark.parametrize(("call", "number"), CALLS.values(), ids=CALLS)
def test_functions_take_every_spelling(call, number):
    for spelling in spelled(number):
        assert repr(call(spelling)) == repr(call(number))


@pytest.mark.parametrize("name", CALLS)
def test_functions_refuse_by_name(name):
    call, _ = CALLS[name]
    for bad in ("8", "x", math.nan, math.inf, 1j, True, [[1]], {}, object()):
        with pytest.raises(AbeError, match=f"(?i){name}"):
            call(bad)


def test_a_curve_may_begin_where_nothing_is_changed():
    assert curve([0, 0.125])[2] == 1.0
    assert curve([0, 0.125])[3] == curve([0.125])[1]
    assert curve([0]) == [0, 1.0]
    for same in (
        torch.tensor([0, 0.125]),
        np.array([0, 0.125]),
        (0.125, 0),
        np.array([0.125, 0], np.float32),
    ):
        assert curve(same) == curve([0, 0.125])
    with pytest.raises(SpecError, match="epsilons"):
        curve([-0.1])
    with pytest.raises(SpecError, match="radius"):
        curve([])
