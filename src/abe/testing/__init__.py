"""The law kit: whether a method, metric, path, objective or update keeps what its card promises.

from abe.testing import check_method

def test_my_method():
    check_method("my_method")
"""

from typing import Any

from abe.testing import nets
from abe.testing.bench import KNOWN, Known, problem_of, samples, task_of
from abe.testing.draws import RecordedDraws, ReplayedDraws
from abe.testing.effects import Allocation, allocation, allocation_of
from abe.testing.known_tasks import KNOWN_TASKS, KnownTask
from abe.testing.laws import Law, LawBroken, Verdict
from abe.testing.methods import check_method, method_laws
from abe.testing.metrics import check_metric, metric_laws
from abe.testing.primitives import check_objective, check_path, check_update
from abe.testing.task_laws import TASK_LAWS

__all__ = [
    "KNOWN",
    "KNOWN_TASKS",
    "TASK_LAWS",
    "Allocation",
    "Known",
    "KnownTask",
    "Law",
    "LawBroken",
    "RecordedDraws",
    "ReplayedDraws",
    "Verdict",
    "allocation",
    "allocation_of",
    "check_method",
    "check_metric",
    "check_objective",
    "check_path",
    "check_update",
    "laws",
    "metric_laws",
    "nets",
    "problem_of",
    "samples",
    "task_of",
]


def laws(method: Any = None, **params: Any) -> list[Law]:
    """The laws that `check_method` would check for a method; all of them without one."""
    return method_laws(method, **params)
