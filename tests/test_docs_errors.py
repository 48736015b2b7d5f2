"""The codes, their page, and their use agree."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from abe.errors import Code

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
SECTIONS = dict(
    re.findall(r"^### (ABE-[A-Z0-9-]+)\n(.*?)(?=^#{2,3} |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
)


def test_headings_are_the_codes() -> None:
    headings = Counter(re.findall(r"^### (.+)$", PAGE, flags=re.MULTILINE))
    codes = Counter(code.value for code in Code)
    assert headings == codes


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.value)
def test_every_code_says_what_when_and_what_to_do(code: Code) -> None:
    parts = re.findall(r"^(.+)\n: \S", SECTIONS[code.value], flags=re.MULTILINE)
    assert parts == ["Means", "Happens when", "Do"]


def test_every_code_is_raised_or_noted_somewhere() -> None:
    used = set()
    for path in (ROOT / "src" / "abe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "Code"
            ):
                used.add(node.attr)
    assert {code.name for code in Code} - used == set()
    assert used - {code.name for code in Code} == set()


def test_code_values_follow_their_names() -> None:
    assert {code.value for code in Code} == {"ABE-" + code.name.replace("_", "-") for code in Code}


def test_codes_in_other_pages_exist() -> None:
    known = {code.value for code in Code}
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]:
        mentioned = set(re.findall(r"\[(ABE-[A-Z-]+)\]", path.read_text(encoding="utf-8")))
        assert mentioned <= known, path.name
