"""The studies run from end to end on a toy network, and go on where they were interrupted."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from studies import __main__ as command
from studies import measuring
from studies.records import Records
from studies.statistics import Interval, difference, interval, rank_correlation, verdict


def run(study: str, folder: Path) -> Any:
    command.main([study, "--quick", "--out", str(folder), "--scratch", str(folder / "scratch")])
    return json.loads((folder / f"{study}.json").read_text("utf-8"))


Runs = Callable[[str], tuple[Any, Path]]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The result of a study and its folder; each study runs once for all tests that read it."""

    @cache
    def made(study: str) -> tuple[Any, Path]:
        folder = tmp_path_factory.mktemp(study)
        return run(study, folder), folder

    return made


@pytest.mark.parametrize("study", command.STUDIES)
def test_a_study_writes_its_result_and_its_figure(study: str, once: Runs) -> None:
    result, folder = once(study)
    assert result["command"] == f"python -m studies {study} --quick --count 4"
    assert len(result["subject"]["photographs"]) == 4
    assert all(len(row) == len(table["head"]) for table in result["tables"] for row in table["rows"])
    assert all(table["rows"] for table in result["tables"])
    assert result["findings"]
    assert (folder / f"{study}.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_alone_lists_every_study_with_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) is None
    said = capsys.readouterr().out
    for name, study in {**command.STUDIES, **command.DEMONSTRATIONS}.items():
        assert study.cost
        assert any(line.startswith(name) and study.cost.split()[-1] in line for line in said.splitlines())


def test_a_demonstration_takes_no_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["soundness-linear", "--count", "3"])
    assert "its own data" in capsys.readouterr().err


def test_figure_3_runs_every_attack_as_an_update(once: Runs) -> None:
    from abe import registry

    result, _ = once("figure3")
    attacks = {e.name for e in registry.updates.entries() if e.card.family.endswith("attack")}
    assert len(attacks) >= 14
    assert attacks <= set(result["values"])


def test_the_two_signs_of_laai_are_one_map(once: Runs) -> None:
    values = once("orientation")[0]["values"]
    assert values["LAAI, Eq. 5"]["insertion"] != values["LAAI, Algorithm 2"]["insertion"]
    assert len(values["LAAI, Eq. 5"]["insertion"]) == 4


def test_an_interrupted_study_goes_on_where_it_was(once: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, folder = once("agi")
    kept = next((folder / "scratch").glob("agi-*.jsonl"))
    lines = kept.read_text("utf-8").splitlines()
    kept.write_text("\n".join(lines[:-2]) + "\n" + lines[-2][: len(lines[-2]) // 2], "utf-8")  # cut off

    calls = []
    explained = measuring.explained
    monkeypatch.setattr(measuring, "explained", lambda *a, **k: calls.append(1) or explained(*a, **k))
    again = run("agi", folder)
    assert len(calls) == 2
    assert kept.read_text("utf-8").splitlines()[: len(lines) - 2] == lines[:-2]
    assert again["values"].keys() == whole["values"].keys()
    for name, values in whole["values"].items():  # the two made anew may have run in other chunks
        assert again["values"][name].keys() == values.keys()
        for measure, found in values.items():
            assert again["values"][name][measure] == pytest.approx(found, rel=1e-3, abs=1e-4)


def test_records_of_other_settings_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    Records(path, {"size": 1}).work("study", [("part", lambda: 1)])
    assert Records(path, {"size": 1}).found == {"part": 1}
    assert Records(path, {"size": 2}).found == {}


def test_intervals_hold_the_mean_and_decide_by_their_ends() -> None:
    found = interval([0.1, 0.2, 0.3, float("nan")])
    assert found.mean == pytest.approx(0.2)
    assert 0.1 <= found.low < 0.2 < found.high <= 0.3
    assert difference([1.0, 2.0], [0.5, 1.5]) == Interval(0.5, 0.5, 0.5)
    assert verdict(Interval(0.5, 0.1, 0.9)) == "confirmed"
    assert verdict(Interval(-0.5, -0.9, -0.1)) == "refuted"
    assert verdict(Interval(0.1, -0.1, 0.3)) == "not decided"


def test_a_rank_correlation_has_its_known_values() -> None:
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 8.0, 27.0]).mean == pytest.approx(1.0)
    found = rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0])
    assert found.mean == pytest.approx(0.8)
    assert found.low <= found.mean <= found.high
    assert rank_correlation([1.0, 1.0, 2.0], [1.0, 2.0, 3.0]).mean == pytest.approx(0.75**0.5)


def test_a_part_counts_as_ignored_below_the_threshold_and_as_extra_above_it() -> None:
    import torch
    from studies import ignorance

    one = ignorance.Composite(
        x=torch.zeros(3, 4, 4),
        relevant=torch.tensor([[True, True], [False, False]]),
        second=torch.tensor([[False, True], [False, False]]),
        without={},
    )
    cells = torch.tensor([[2.0, 0.1], [-1.0, 1.0]])
    found = ignorance._judge(cells, one, {"own": {"left": 2.0, "right": 1.0}})
    assert found["ii 0.1"] == 0.5  # of two relevant cells, 0.05 of the largest is below 0.1
    assert found["ei 0.1"] == 0.5
    assert found["second"] == pytest.approx(0.1 / 3.1)
    assert found["outside"] == pytest.approx(1.0 / 3.1)
