"""The studies run from end to end on a toy network, and go on where they were interrupted."""

import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from studies import __main__ as command
from studies import measuring
from studies.records import Records
from studies.statistics import Interval, difference, interval, rank_correlation, verdict

from abe.errors import StorageError


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


LONG = ("completeness", "published", "orientation", "agi")
"""Most of the time of all studies together; the others hold the same in the fast suite."""


@pytest.mark.parametrize(
    "study", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in command.STUDIES]
)
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


def test_noise_in_the_records_is_left_out_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    Records(path, {"size": 1}).work("study", [("a", lambda: 1), ("b", lambda: 2)])
    first, *lines = path.read_bytes().splitlines()
    noise = [b"\xff\xfe", b"[1]", b"3", b"{", b'{"c": ' + b"[" * 100_000, b"", b'{"b": 2']
    path.write_bytes(b"\n".join([first, lines[0], *noise]))
    again = Records(path, {"size": 1})
    assert again.found == {"a": 1}
    again.work("study", [("a", lambda: 5), ("b", lambda: 6)])
    assert path.read_bytes().splitlines() == [first, lines[0], b'{"b": 6}']
    path.write_bytes(b"\xff" * 100)
    assert Records(path, {"size": 1}).found == {}


def test_two_that_share_a_file_take_over_what_the_other_finished(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    one, other = Records(path, {"size": 1}), Records(path, {"size": 1})
    one.work("study", [("a", lambda: 1)])
    other.work("study", [("a", lambda: pytest.fail("made again")), ("b", lambda: 2)])
    one.work("study", [("b", lambda: pytest.fail("made again"))])
    assert one.found == other.found == Records(path, {"size": 1}).found == {"a": 1, "b": 2}


def test_two_with_other_settings_never_mix_their_records(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    one, other = Records(path, {"size": 1}), Records(path, {"size": 2})
    other.work("study", [("a", lambda: 20)])
    one.work("study", [("a", lambda: 10)])
    assert Records(path, {"size": 1}).found == {"a": 10}
    other.work("study", [("b", lambda: 21)])
    assert Records(path, {"size": 2}).found == {"a": 20, "b": 21}


def _kept(path: Path, who: int) -> None:
    records = Records(path, {"size": 1})
    for number in range(20):
        records.keep(f"{who} {number}", [who] * 500)


def test_processes_that_share_a_file_lose_no_record(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    start = multiprocessing.get_context("fork").Process
    writing = [start(target=_kept, args=(path, who)) for who in range(2)]
    for process in writing:
        process.start()
    for process in writing:
        process.join()
    found = Records(path, {"size": 1}).found
    assert found == {f"{who} {number}": [who] * 500 for who in range(2) for number in range(20)}


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    records = Records(path, {"size": 1})
    records.work("study", [("a", lambda: 1)])

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        records.work("study", [("b", lambda: 2)])
    monkeypatch.undo()
    assert Records(path, {"size": 1}).found.items() >= {"a": 1}.items()


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
