"""Which lines are mutated, and how: every mutation is one line that can be parsed, in code that runs."""

import ast
from pathlib import Path

import pytest
from tests.tools.mutate import ROOT, Tree
from tests.tools.mutations import ROOMS, chosen, sites

SOURCE = '''"""A text with 1 < 2."""
import torch

def share(x: "Float[Tensor, 2]", k: int = 3) -> Tensor:
    """Not 1 + 1."""
    if not k > 2:
        raise ValueError("at most " + str(1 + 2))
    part: int = max(k, 1)
    x.add_(1)
    x[0] = part
    return x.sum(dim=1) / k

class A:
    def __repr__(self) -> str:
        return "a" * 3
'''


def test_every_kind_is_found_where_code_runs_and_nowhere_else() -> None:
    found = {(one.kind, one.after) for one in sites("a.py", SOURCE.encode())}
    assert found == {
        ("constant", 'def share(x: "Float[Tensor, 2]", k: int = 4) -> Tensor:'),
        ("not removed", "if k > 2:"),
        ("comparison", "if not k < 2:"),
        ("comparison", "if not k >= 2:"),
        ("constant", "if not k > 3:"),
        ("min/max", "part: int = min(k, 1)"),
        ("constant", "part: int = max(k, 2)"),
        ("statement skipped", "pass"),
        ("constant", "x.add_(2)"),
        ("constant", "x[1] = part"),
        ("dim", "return x.sum(dim=-1) / k"),
        ("constant", "return x.sum(dim=2) / k"),
        ("arithmetic", "return x.sum(dim=1) * k"),
        ("sign returned", "return -(x.sum(dim=1) / k)"),
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_a_choice_is_even_over_the_rooms_and_the_same_again(seed: int) -> None:
    taken = chosen(ROOT, seed, 15)
    assert taken == chosen(ROOT, seed, 15)
    rooms = [Path(one.file).relative_to("src/abe").parts[0] for one in taken]
    assert {room: rooms.count(room) for room in ROOMS} == dict.fromkeys(ROOMS, 3)
    assert len({one.file for one in taken}) == 15
    for one in taken:
        before = (ROOT / one.file).read_bytes()
        after = one.applied(before)
        ast.parse(after)
        lines = zip(before.splitlines(), after.splitlines(), strict=True)
        assert [i for i, (a, b) in enumerate(lines, 1) if a != b] == [one.line]


@pytest.mark.slow
def test_the_tests_of_a_module_are_its_mirror_its_names_and_its_room() -> None:
    stages = Tree(ROOT).stages("src/abe/engines/path/dynamic.py")
    assert stages["mirror"].paths == ("tests/engines/path/test_dynamic.py",)
    assert "agi" in stages["names"].names
    assert "tests/engines/path/test_active.py" in stages["room"].paths
    assert "tests/engines/path/test_dynamic.py" not in stages["room"].paths
