"""Classes that share a name are told apart wherever results name them."""

import pytest
import torch

import abe
from abe.report import view

LABELS = ["missile", "dog", "missile", "Dog"]


def task() -> abe.Task:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4, bias=False))
    return abe.image_task(model, labels=LABELS)


def test_results_name_them_with_their_number() -> None:
    found = abe.explain(task(), torch.rand(3, 3, 2, 2), "gradient", target=[0, 1, 2], progress=False)
    assert found.target_names == ["missile (0)", "dog", "missile (2)"]
    for top in found.top:
        assert {name for name, _ in top} == {"missile (0)", "dog", "missile (2)", "Dog"}
    shown = [view.sample_view(found, number, "") for number in range(3)]
    assert [[name for name, _ in one.top].count(one.target) for one in shown] == [1, 1, 1]


def test_a_target_can_be_named_so() -> None:
    named = task()
    assert [named.class_index(name) for name in ("missile (2)", "missile (0)", "dog", "Dog")] == [2, 0, 1, 3]
    for name in ("missile", "MISSILE", "DOG", "missile (1)", "dog (1)"):
        with pytest.raises(abe.AbeError):
            named.class_index(name)


def test_names_that_nobody_shares_stay_as_they_are() -> None:
    assert [task().told_apart(number) for number in (1, 3)] == ["dog", "Dog"]
    assert task().told_apart(7) == "7"
