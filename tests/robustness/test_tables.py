"""Tables of robustness as they are printed: a head, words to the left and numbers to the right."""

import io

from rich.console import Console

from abe.robustness.tables import build


def test_a_table_has_its_head_its_rows_and_its_caption() -> None:
    table = build(
        ["attack", "eps", "accuracy"], [["fgsm", "0.1", "[b]50 %"], ["pgd", "0.25", "0 %"]], "of [2]", text=1
    )
    printed = io.StringIO()
    Console(file=printed, width=60).print(table)
    lines = [line.strip() for line in printed.getvalue().splitlines() if line.strip()]
    assert lines[0].split() == ["attack", "eps", "accuracy"]
    assert lines[2].split() == ["fgsm", "0.1", "[b]50", "%"]
    assert lines[3].split() == ["pgd", "0.25", "0", "%"]
    assert "of [2]" in lines[-1]
    assert lines[2].startswith("fgsm ")
    assert lines[2].index("0.1") + 3 == lines[3].index("0.25") + 4 == lines[0].index("eps") + 3
