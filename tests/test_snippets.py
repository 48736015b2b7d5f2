"""The Python of the README and the first pages runs as pasted, block after block."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


PAGES = ("quickstart", "trust", "robustness", "combine", "texts")
LONG = ("README.md", "docs/index.md")
"""What they show, quickstart shows too."""


@pytest.mark.parametrize(
    "page", [*(f"docs/{n}.md" for n in PAGES), *(pytest.param(n, marks=pytest.mark.slow) for n in LONG)]
)
def test_a_page_runs_as_pasted(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, object] = {"__name__": page}
    for block in blocks:
        exec(compile(block, page, "exec"), names)  # our own text
    assert list(tmp_path.glob("*.png"))
