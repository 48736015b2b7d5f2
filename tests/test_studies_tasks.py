"""Tables by task: they run on toys, go on where they were, and the kept ones say what their numbers say."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from studies import __main__ as command
from studies import benches, tabling, tasks
from studies.tabling import RANDOM, Found

from abe.registry import methods

DOCS = Path(__file__).parents[1] / "docs"
RECORDS = sorted((DOCS / "results").glob("tasks-*.json"))
PAGE = (DOCS / "tasks_tables.md").read_text("utf-8")
FEW = "gradient,integrated_gradients,occlusion,cam,attention_rollout,sage"


def run(task: str, folder: Path, *more: str) -> Any:
    words = [
        "tasks",
        task,
        "--quick",
        "--methods",
        FEW,
        "--out",
        str(folder),
        "--scratch",
        str(folder / "kept"),
    ]
    command.main([*words, *more])
    return json.loads((folder / f"tasks-{task}.json").read_text("utf-8"))


@cache
def _text(folder: Path) -> Any:
    return run("text", folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The toy's record, and where it is."""
    folder = tmp_path_factory.getbasetemp() / "tasks"
    return _text(folder), folder


@pytest.mark.parametrize("task", benches.TASKS)
def test_a_task_has_a_record_and_a_table(task: str, text: tuple[Any, Path], tmp_path: Path) -> None:
    result, folder = text if task == "text" else (run(task, tmp_path), tmp_path)
    kept = result["values"]["toy"]
    assert {RANDOM, "gradient", "integrated_gradients", "occlusion"} <= set(kept["scores"])
    assert kept["given"]["integrated_gradients"] == "steps=20"
    for scores in kept["scores"].values():
        assert len(scores["insertion"]) == len(scores["deletion"]) == kept["n"] == 4
        assert scores["seconds"] > 0
        assert scores["passes"] >= 1
    assert kept["failed"]["attention_rollout"][0].startswith("ABE-")
    assert kept["out"]["sage"] == tasks.REASONS["sage"]
    table = next(t for t in result["tables"] if t["title"] == "toy")
    assert sorted(row[0] for row in table["rows"]) == sorted(kept["scores"])
    assert (folder / f"tasks-{task}.md").read_text("utf-8") == tabling.markdown(result)


def test_what_is_kept_is_not_measured_again(text: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    result, folder = text
    kept = folder / "kept" / "tasks-text-quick-4.jsonl"
    lines = kept.read_text("utf-8").splitlines()
    cut = [line for line in lines if '"toy | occlusion()"' not in line]
    kept.write_text("\n".join(cut) + "\n", "utf-8")
    missing = run("text", folder, "--so-far")
    assert missing["values"]["toy"]["out"]["occlusion"] == "not measured yet"
    assert "occlusion" not in missing["values"]["toy"]["scores"]

    called = []
    measured = tasks.measured
    monkeypatch.setattr(
        tasks, "measured", lambda b, row, step: called.append(row.name) or measured(b, row, step)
    )
    again = run("text", folder)
    assert called == ["occlusion"]
    for name, scores in result["values"]["toy"]["scores"].items():
        for metric in tabling.METRICS:
            found = again["values"]["toy"]["scores"][name][metric]
            assert found == pytest.approx(scores[metric], rel=1e-3, abs=1e-4)


def test_seconds_are_measured_again_and_scores_stay(
    text: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = text
    monkeypatch.setattr(
        tasks, "timed", lambda *_: {"seconds": 2.0, "load": 0.5, "threads": 1, "day": "2100-01-01"}
    )
    monkeypatch.setattr(tasks, "measured", lambda *_: pytest.fail("measured again"))
    again = run("text", folder, "--time")
    for name, scores in again["values"]["toy"]["scores"].items():
        assert scores["seconds"] == 2.0
        assert scores["insertion"] == pytest.approx(
            result["values"]["toy"]["scores"][name]["insertion"], abs=1e-3
        )
    assert "nothing else running" in again["findings"][-1]
    assert again["day"] == "2100-01-01"


def test_every_method_is_a_row_or_has_a_reason() -> None:
    for few in (False, True):
        rows, out = tasks.rows_of(None, few, {})
        assert {row.name for row in rows} - {RANDOM} | set(out) == set(methods.names())
        assert all(out.values())
    assert set(tasks.REASONS) == {e.name for e in methods.entries() if e.required()}
    assert all(name in methods.names() for name in tasks.CHOSEN)


def test_an_unknown_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["tasks", "text", "--models", "GPT"])
    assert "TextCNN" in capsys.readouterr().err


def found(n: int, *shifts: float) -> Found:
    """Methods whose INS is that of random and a shift, and whose DEL is random's."""
    drawn = torch.rand(n, generator=torch.Generator().manual_seed(0)).double()
    one = {"passes": 1.0, "seconds": 1.0, "load": 1.0, "threads": 1, "day": "2100-01-01"}
    scores = {
        f"by {shift:g}": {**one, "insertion": (drawn + shift).tolist(), "deletion": drawn.tolist()}
        for shift in shifts
    }
    scores[RANDOM] = {**one, "insertion": drawn.tolist(), "deletion": drawn.tolist()}
    return Found(model="m", about="", n=n, scores=scores, given={}, failed={}, out={})


def test_the_tests_against_random_have_their_known_values() -> None:
    one = found(10, 0.1, -0.1, 0.0)
    tests = one.tests()
    smallest = 2.0**-9
    assert one.smallest == smallest
    assert tests["by 0.1", "insertion"] == (pytest.approx(6 * smallest), "better")
    assert tests["by -0.1", "insertion"] == (pytest.approx(6 * smallest), "worse")
    assert tests["by 0", "insertion"] == (1.0, "")
    assert tests["by 0.1", "deletion"] == (1.0, "")
    assert {verdict for _, verdict in found(5, 0.1).tests().values()} == {"too few samples"}
    assert found(20, 0.1).tests()["by 0.1", "insertion"][1] == "better"


def test_sentences_count_what_the_tests_say() -> None:
    made = tabling.outcome("made-up samples", [found(10, 0.1, -0.1, 0.0)])
    assert "of 3 methods 1 insert and 0 delete better" in made.findings[0]
    assert made.findings[1] == "m: worse than random, by the same rule, inserts: by -0.1."
    assert "nothing else running" in made.findings[-1]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_kept_record_says_what_its_numbers_say(path: Path) -> None:
    result = json.loads(path.read_text("utf-8"))
    samples = result["caption"].split(" on ", 1)[1]
    made = tabling.outcome(samples, tabling.again(result["values"]))
    assert made.findings == result["findings"]
    tables = [
        {**vars(table), "head": list(table.head), "rows": [list(r) for r in table.rows]}
        for table in made.tables
    ]
    assert tables == result["tables"]
    assert path.with_suffix(".md").read_text("utf-8") == tabling.markdown(result)
    assert result["command"].startswith(f"python -m studies tasks {path.stem.removeprefix('tasks-')} ")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", result["day"])
    for kept in result["values"].values():
        known = set(kept["scores"]) | set(kept["failed"]) | set(kept["out"])
        assert known - {RANDOM} == set(methods.names()), "a method is neither a row nor left out by name"


def test_the_page_includes_every_kept_record() -> None:
    named = re.findall(r"\{include\} results/(tasks-\w+)\.md", PAGE)
    assert sorted(named) == [path.stem for path in RECORDS]
    for task in benches.TASKS:
        assert f"$ python -m studies tasks {task}" in PAGE
