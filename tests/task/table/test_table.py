"""Rows of a table: what is read, what is refused, and shares that are known."""

import pickle
import re
from dataclasses import replace
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.task.table.tables import (
    CATEGORIES,
    MIXED,
    MODELS,
    NUMBERS,
    ROWS,
    Additive,
    Apart,
    Frame,
    Listed,
    ReadTwice,
    Shared,
    Whole,
    plainly,
    seeded,
)
from torch import Tensor, nn

import abe
from abe.baselines import Background, BackgroundRows
from abe.engines.runtime.request import open_request
from abe.errors import Code

BACKGROUND = torch.tensor(list(ROWS.values()), dtype=torch.float64).T
CODES = torch.tensor([[0, 20, 0, 1], [2, 30, 1, 2], [0, 40, 1, 3], [1, 60, 0, 4], [0, 35, 1, 0.5]]).double()
"""`MIXED` as numbers."""


def numbers_task(**more: Any) -> abe.Task:
    return abe.table_task(
        seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))), background=ROWS, **more
    )


def mixed_task(model: Any = Apart, **more: Any) -> abe.Task:
    made = seeded(model) if isinstance(model, type) else model
    return abe.table_task(made, **({"background": MIXED, "categories": CATEGORIES} | more))


def explain(task: abe.Task, rows: Any, method: str = "shapley", **more: Any) -> abe.Explanation:
    return abe.explain(task, rows, method, progress=False, **more)


def shares(task: abe.Task, rows: Any, method: str = "shapley", **more: Any) -> Tensor:
    found = explain(task, rows, method, **more).by_unit()
    return torch.tensor([[value for _, value in row] for row in found], dtype=torch.float64)


def brute(value: Any, u: int) -> Tensor:
    """Shapley values of a game, by the definition."""
    out = torch.zeros(u, dtype=torch.float64)
    for i in range(u):
        rest = [j for j in range(u) if j != i]
        for size in range(u):
            weight = factorial(size) * factorial(u - size - 1) / factorial(u)
            out[i] += weight * sum(value({*s, i}) - value(set(s)) for s in combinations(rest, size))
    return out


# --- known answers ----------------------------------------------------------------------------------------


def test_shares_of_an_additive_table() -> None:
    """Column j has f_j(x_j) less the mean of f_j over the background."""
    terms = (torch.square, torch.sin, lambda x: 3 * x)
    task = abe.table_task(Additive(*terms), background=ROWS, output_kind="regression")
    rows = torch.tensor([[25.0, 2.5, 0.4], [50.0, -1.0, 0.0]])
    wanted = torch.stack(
        [f(rows[:, i].double()) - f(BACKGROUND[:, i]).mean() for i, f in enumerate(terms)], 1
    )
    for method in ("shapley", "occlusion", "kernel_shap", "banzhaf", "owen"):
        assert torch.allclose(shares(task, rows, method), wanted, rtol=1e-4, atol=1e-3), method
    typical = BACKGROUND.mean(0)
    single = torch.stack([f(rows[:, i].double()) - f(typical[i]) for i, f in enumerate(terms)], 1)
    for method in ("ig", "deeplift"):
        if method == "ig":
            assert torch.allclose(shares(task, rows, method), single, rtol=1e-3, atol=1e-3)
    assert torch.allclose(shares(task, rows, "expected_gradients", samples=400), wanted, rtol=0.1, atol=3)


@pytest.mark.parametrize("model", MODELS)
def test_shapley_values_of_mixed_columns_are_those_of_brute_force(model: type[nn.Module]) -> None:
    net = seeded(model)
    x, found = CODES[1], explain(mixed_task(net), {k: v[1] for k, v in MIXED.items()}, target=0)

    def value(present: set[int]) -> float:
        rows = CODES.clone()
        rows[:, list(present)] = x[list(present)]
        with torch.no_grad():
            return float(plainly(net, rows)[:, 0].mean())

    assert [name for name, _ in found.by_unit()[0]] == list(MIXED)
    got = torch.tensor([v for _, v in found.by_unit()[0]], dtype=torch.float64)
    assert torch.allclose(got, brute(value, 4), atol=1e-12)
    assert found.residual is not None
    assert float(found.residual.abs().max()) < 1e-9


@pytest.mark.parametrize("model", MODELS)
def test_integrated_gradients_of_mixed_columns_are_complete(model: type[nn.Module]) -> None:
    net = seeded(model)
    found = explain(mixed_task(net), MIXED, "ig", steps=200, target=1)
    typical = torch.tensor([[0, 37, 1, 2.1]]).double()
    with torch.no_grad():
        change = plainly(net, CODES)[:, 1] - plainly(net, typical)[:, 1]
    assert found.delta is not None
    assert torch.allclose(found.delta, change, atol=1e-12)
    assert torch.allclose(found.attribution.sum(1), change, atol=1e-6)
    same = [
        row[0][1] for row, colour in zip(found.by_unit(), MIXED["colour"], strict=True) if colour == "red"
    ]
    assert same == [0.0] * 3  # the typical colour


def test_a_category_is_moved_by_paths_and_swapped_by_removals() -> None:
    """No removal shows the network a vector that no colour has."""
    net = seeded(Apart)
    seen = list[Tensor]()
    net.head.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, :4].detach().clone()))
    task = mixed_task(net)

    def known() -> bool:
        vectors = net.colour.weight.detach()
        return bool((torch.cdist(torch.cat(seen), vectors).amin(1) < 1e-12).all())

    for method in ("shapley", "occlusion", "lime", "kernel_shap"):
        explain(task, MIXED, method)
    assert known()
    explain(task, MIXED, "ig", steps=4)
    assert not known()


def test_sixteen_columns_are_exact() -> None:
    terms = [lambda x, k=k: x * x.new_tensor(float(k)) for k in range(16)]
    background = torch.rand(2, 16, dtype=torch.float64)
    task = abe.table_task(Additive(*terms), background=background, output_kind="regression")
    row = torch.rand(1, 16, dtype=torch.float64)
    found = explain(task, row)
    assert found.cost.forward_rows >= 2 * (2**16 - 1)
    wanted = (row - background.mean(0)) * torch.arange(16)
    assert torch.allclose(found.attribution.double(), wanted, atol=1e-5)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_rows_together_are_rows_alone(colours: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rest = torch.rand((len(colours), 3), generator=generator).double()
    rest[:, 1] = (rest[:, 1] > 0.5).double()
    rows = torch.cat([torch.tensor(colours).double()[:, None], rest], 1)
    task = mixed_task()
    together = shares(task, rows, target=0)
    alone = torch.cat([shares(task, row, target=0) for row in rows])
    assert torch.allclose(together, alone, atol=1e-12)


# --- what is read -----------------------------------------------------------------------------------------

WAYS: list[Any] = [
    torch.tensor([[30.0, 2.0, 0.2]]),
    torch.tensor([30.0, 2.0, 0.2]),
    np.array([[30, 2, 0.2]]),
    np.array([[30, 2, 0.2]], dtype=object),
    [30, 2, 0.2],
    [[30, 2, 0.2]],
    {"age": 30, "income": 2, "score": 0.2},
    {"score": [0.2], "age": torch.tensor([30]), "income": (2,)},
    [{"score": 0.2, "age": np.int64(30), "income": 2}],
    Frame({"income": [2], "score": [0.2], "age": np.array([30])}),
]


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_ways_to_give_a_row(way: int) -> None:
    task = numbers_task()
    found = explain(task, WAYS[way])
    assert found.names == ["row 0"]
    assert found.shown == [{"age": 30.0, "income": 2.0, "score": 0.2}] or way == 0 or way == 1
    assert torch.allclose(found.x, torch.tensor([[30.0, 2.0, 0.2]]).double())
    assert (found.unit, found.unit_names) == ("column", [NUMBERS])


def test_half_precision_is_read_as_it_is() -> None:
    exact = {"age": 30.0, "income": 2.0, "score": 0.25}
    wanted = explain(numbers_task(), exact).attribution
    for kind in (torch.bfloat16, torch.float16):
        assert torch.equal(
            explain(numbers_task(), torch.tensor([[30.0, 2, 0.25]], dtype=kind)).attribution, wanted
        )
        columns = {name: torch.tensor([value], dtype=kind) for name, value in exact.items()}
        assert torch.equal(explain(numbers_task(), columns).attribution, wanted)


@pytest.mark.parametrize("colour", ["blue", 2, 2.0, np.float32(2), torch.tensor(2)])
def test_a_category_is_a_name_or_a_code(colour: Any) -> None:
    found = explain(mixed_task(), {"colour": colour, "age": 1, "size": "l", "income": True})
    assert found.shown == [{"colour": "blue", "age": 1.0, "size": "l", "income": 1.0}]


def test_names_that_are_numbers_are_no_codes() -> None:
    categories = {"colour": [1, 2, 3], "size": SIZES_AS_NUMBERS}
    background = MIXED | {"colour": [1, 3, 1, 2, 1], "size": [10, 20, 20, 10, 20]}
    task = mixed_task(categories=categories, background=background)
    assert torch.allclose(shares(task, background), shares(mixed_task(), MIXED), atol=1e-12)
    with pytest.raises(abe.AbeError, match="no category 0"):
        explain(task, {"colour": 0, "age": 1, "size": 10, "income": 1})


SIZES_AS_NUMBERS = [10, 20]


def test_learnt_categories_are_sorted_and_said() -> None:
    found = explain(mixed_task(categories=["colour", "size"]), MIXED)
    said = [text for text in found.warnings if Code.CATEGORY in text]
    assert said[0].startswith(
        "The categories of 'colour' were numbered in sorted order: blue 0, green 1, red 2"
    )
    in_order = mixed_task(categories={"colour": ["blue", "green", "red"], "size": ["l", "s"]})
    assert torch.allclose(shares(in_order, MIXED), shares(mixed_task(categories=["colour", "size"]), MIXED))
    coded = MIXED | {"colour": [0, 2, 0, 1, 0], "size": [0, 1, 1, 0, 1]}
    learnt = mixed_task(categories=["colour", "size"], background=coded)
    assert torch.allclose(shares(learnt, coded), shares(mixed_task(), MIXED))
    assert explain(learnt, coded).warnings == []


def test_names_written_like_numbers_are_no_codes() -> None:
    categories = {"colour": ["1", "2", "3"], "size": ["s", "l"]}
    task = mixed_task(categories=categories, background=MIXED | {"colour": ["1", "3", "1", "2", "1"]})
    with pytest.raises(abe.AbeError, match="no category 1"):
        explain(task, {"colour": 1, "age": 1, "size": "s", "income": 1})
    assert explain(task, {"colour": "2", "age": 1, "size": 1, "income": 1}).shown[0]["colour"] == "2"


def test_estimators_with_a_budget_have_it_per_background_row() -> None:
    """A hundred rows stand in for an absent column; the number of coalitions stays that of the method."""
    generator = torch.Generator().manual_seed(0)
    background = torch.randn(100, 12, generator=generator)
    weights = torch.randn(12, generator=generator)
    task = abe.table_task(
        Additive(*[w.mul for w in weights]), background=background, output_kind="regression"
    )
    wanted = (background[0] - background.mean(0)) * weights
    for method in ("kernel_shap", "lime", "optilime", "baylime"):
        found = explain(task, background[:1], method)
        assert torch.allclose(found.attribution[0], wanted, atol=0.05 if "lime" in method else 1e-4), method


def test_groups_are_columns_to_a_person() -> None:
    hot = {"age": [1.0, 2.0, 3.0], "city_a": [1, 0, 0], "city_b": [0, 1, 0], "city_c": [0, 0, 1]}
    seen = list[Tensor]()
    model = nn.Linear(4, 2)
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    for groups in (
        {"city": [1, 2, 3]},
        {"city": ["city_a", "city_b", "city_c"]},
        {"city": "city_"},
        ["city"],
    ):
        task = abe.table_task(model, background=hot, groups=groups)
        found = explain(task, hot)
        assert found.unit_names[0] == ["age", "city"]
        explain(task, hot, "occlusion")
    assert {tuple(row) for row in torch.cat(seen)[:, 1:].tolist()} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    task = abe.table_task(model, background=hot, groups=["city"])
    assert explain(task, hot, "ig").delta is not None
    assert task.lifter.reference(task).tolist() == [2, 1, 0, 0]  # the first of the most frequent


def test_many_background_rows_are_thinned_and_said() -> None:
    many = torch.arange(1000.0)[:, None].expand(-1, 3)
    task = abe.table_task(nn.Linear(3, 1), background=many, output_kind="regression")
    found = explain(task, many[:1])
    said = [text for text in found.warnings if Code.BACKGROUND in text]
    assert said[0].startswith("100 of 1000 background rows")
    whole = abe.table_task(nn.Linear(3, 1), background=many, background_rows=None, output_kind="regression")
    assert not [text for text in explain(whole, many[:1]).warnings if Code.BACKGROUND in text]
    assert len(whole.lifter.references(whole)) == 1000


def test_background_rows_come_in_turn() -> None:
    task = numbers_task()
    with open_request(task, BACKGROUND[:2]) as problem:
        owner, draw = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 3, 4, 5])
        rows = problem.reference(BackgroundRows(), owner, draw)
        assert torch.equal(rows, BACKGROUND[[0, 3, 0, 1]])
        assert torch.allclose(problem.reference(Background(), owner, draw), BACKGROUND.mean(0).expand(4, -1))


def test_a_row_of_ones_own_is_a_reference() -> None:
    task = mixed_task()
    row = {"colour": "green", "age": 60.0, "size": "s", "income": 4.0}
    found = explain(task, MIXED, "ig", baseline=("row", {"row": row}), target=0)
    assert found.attribution[3].abs().max() == 0
    with torch.no_grad():
        outputs = plainly(seeded(Apart), CODES)[:, 0]
    assert found.delta is not None
    assert torch.allclose(found.delta, outputs - outputs[3], atol=1e-12)


def test_an_explanation_of_rows_is_stored(tmp_path: Path) -> None:
    found = explain(mixed_task(), MIXED, "ig")
    again = abe.Explanation.load(found.save(tmp_path / "rows"))
    assert (again.by_unit(), again.shown, again.parts) == (found.by_unit(), found.shown, found.parts)
    assert again.modality == "tabular"
    assert torch.equal(again.part("colour"), found.attribution[:, :4])


def test_methods_at_a_layer_see_the_background() -> None:
    task = mixed_task()
    base = ("ig", {"baseline": "background", "steps": 200})
    found = explain(task, MIXED, "at_layer", layer="head.0", base=base, target=0)
    assert found.attribution.shape == (5, 6)
    assert found.delta is not None
    assert torch.allclose(found.attribution.sum(1), found.delta, atol=1e-6)
    at_input = explain(task, MIXED, "ig", target=0)
    assert at_input.delta is not None
    assert torch.allclose(found.delta, at_input.delta, atol=1e-12)


def test_a_task_is_copied_and_stored_with_what_it_knows() -> None:
    task = mixed_task()
    first = explain(task, MIXED)
    again = pickle.loads(pickle.dumps(task))  # noqa: S301 -- our own
    assert torch.equal(explain(again, MIXED).attribution, first.attribution)
    assert (
        explain(task, MIXED).cost.forward_rows == first.cost.forward_rows - 9
    )  # two ways were tried, one of them twice
    other = replace(task, model=seeded(Apart, 1))
    assert not torch.equal(explain(other, MIXED).x[:, :6], first.x[:, :6])
    assert torch.equal(explain(task, MIXED).attribution, first.attribution)


def test_the_page_of_tables_runs_as_pasted() -> None:
    text = (Path(__file__).parents[3] / "docs" / "tables.md").read_text("utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "tables.md", "exec"), names)  # our own text
    assert names["average"].shape == (4, 3)


def test_regression_with_several_outputs() -> None:
    task = numbers_task(output_kind="regression")
    for target in (0, 1):
        found = explain(task, BACKGROUND, target=target)
        with torch.no_grad():
            outputs = task.model(BACKGROUND)[:, target]
        assert torch.allclose(found.score, outputs)
        assert torch.allclose(found.attribution.sum(1), outputs - outputs.mean(), atol=1e-9)


@pytest.mark.parametrize("kind", ["logits", "regression"])
@pytest.mark.parametrize("model", [Apart, Whole])
def test_methods_are_compared(kind: Any, model: type[nn.Module]) -> None:
    methods = ["shapley", "ig", "gradient_x_input", "occlusion"]
    more = {"target": 0} if kind == "regression" else {}
    found = abe.compare(mixed_task(model, output_kind=kind), MIXED, methods=methods, progress=False, **more)
    assert not found.failures
    assert set(found.scores) == {"shapley", "integrated_gradients", "gradient_x_input", "occlusion"}


@pytest.mark.parametrize("model", [Apart, Listed, Shared])
def test_bounds_are_those_of_numbers_and_of_vectors_that_there_are(model: type[nn.Module]) -> None:
    task = mixed_task(model, bounds=([0, 0], [100, 5]))
    found = explain(task, MIXED, "ig", baseline="uniform", target=0)
    ends = {end: [value for part in found.parts for value in getattr(part, end)] for end in ("low", "high")}
    assert ends["low"][-2:] == [0.0, 0.0]
    assert ends["high"][-2:] == [100.0, 5.0]
    moved = abe.attack(task, MIXED, "cw")
    assert moved.x_adv.shape == found.x.shape
    with pytest.raises(abe.AbeError, match=r"'age' leaves the task's bounds\. Got 101 in row 0"):
        explain(task, {"colour": "red", "age": 101, "size": "s", "income": 1}, "gradient")


def test_rules_take_the_bounds_of_numbers() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    task = abe.table_task(net, background=ROWS, bounds=(0, [99, 9, 1]))
    assert explain(task, ROWS, "deep_taylor").attribution.shape == (4, 3)
    assert explain(task, ROWS, "ig").parts[0].high == (99.0, 9.0, 1.0)
    with pytest.raises(abe.AbeError, match="no bounds"):
        abe.table_task(Estimator(), background=ROWS, bounds=(0, 1))


def test_sets_of_columns_agree_with_the_loss_of_an_additive_table() -> None:
    """The share of a set is what the score loses without it; categories go as a whole."""
    net = seeded(Apart)
    net.head = nn.Linear(8, 2).double()
    found = abe.compare(
        mixed_task(net),
        MIXED,
        methods=["ig"],
        metrics=[("faithfulness_correlation", {"size": 2, "samples": 20})],
        progress=False,
    )
    (score,) = found.scores["integrated_gradients"].values()
    assert torch.allclose(score.values, torch.ones(5, dtype=score.values.dtype), atol=1e-6)


def test_attacks_move_the_vectors_of_categories() -> None:
    found = abe.attack(mixed_task(), MIXED, "pgd", eps=0.5)
    assert float((found.x_adv - found.x)[:, :4].abs().max()) > 0


# --- what is refused --------------------------------------------------------------------------------------

ROW = {"age": 30, "income": 2, "score": 0.2}
BAD_NUMBERS: list[tuple[Any, Code, str]] = [
    ({"age": 30, "income": 2}, Code.COLUMN, "no column 'score'"),
    (ROW | {"target": 1}, Code.COLUMN, "column 'target' that the task does not know"),
    ({"age": 30, "incme": 2, "score": 1}, Code.COLUMN, "Did you mean 'incme'"),
    (
        Frame([("age", [1]), ("age", [1]), ("income", [1]), ("score", [1])]),
        Code.COLUMN,
        "two columns called 'age'",
    ),
    (ROW | {"age": "old"}, Code.COLUMN, "Name the column in categories="),
    (ROW | {"age": np.datetime64("2020-01-01")}, Code.COLUMN, "dates or spans of time"),
    (Frame({k: np.array(["2020-01-01"], dtype="M8[D]") for k in NUMBERS}), Code.COLUMN, "days since a date"),
    (np.zeros((1, 3), dtype=complex), Code.COLUMN, "complex"),
    (ROW | {"age": {"x": 1}}, Code.COLUMN, "holds no numbers"),
    (ROW | {"age": None}, Code.MISSING_VALUE, "column 'age'. Got nothing in row 0"),
    (
        Frame({"age": [1, np.nan], "income": [1, 2], "score": [None, None]}),
        Code.MISSING_VALUE,
        "row 1 and 2 more",
    ),
    (torch.tensor([[1.0, float("nan"), 2.0]]), Code.MISSING_VALUE, "column 'income'"),
    (ROW | {"age": float("inf")}, Code.NOT_FINITE_INPUT, "'age' holds infinity"),
    (ROW | {"age": [1, 2]}, Code.SHAPE, "one value where others have several"),
    ({"age": [1, 2], "income": [1], "score": [1, 2]}, Code.SHAPE, "different lengths"),
    (torch.zeros(2, 4), Code.SHAPE, "The columns are age, income, score"),
    (torch.zeros(4), Code.SHAPE, "another number of columns"),
    (torch.zeros(2, 3, 1), Code.SHAPE, "another number of columns"),
    ([[1, 2, 3], [4, 5]], Code.SHAPE, "row 1"),
    ([ROW, [1, 2, 3]], Code.SHAPE, "different kinds"),
    ([], Code.EMPTY_BATCH, "nothing to explain"),
    (torch.zeros(0, 3), Code.EMPTY_BATCH, "nothing to explain"),
    ("age", Code.SHAPE, "no row of a table"),
    (3, Code.SHAPE, "no row of a table"),
    (None, Code.SHAPE, "no row of a table"),
]


@pytest.mark.parametrize("which", range(len(BAD_NUMBERS)))
def test_rows_that_are_refused(which: int) -> None:
    raw, code, said = BAD_NUMBERS[which]
    with pytest.raises(abe.AbeError) as caught:
        explain(numbers_task(), raw, "gradient")
    assert caught.value.code == code
    assert said in str(caught.value)


CELLS = {"colour": "red", "age": 1, "size": "s", "income": 1}
BAD_CATEGORIES: list[tuple[Any, Code, str]] = [
    ("pink", Code.CATEGORY, "no category 'pink'. Got it in row 0. Expected one of 'red', 'green', 'blue'"),
    ("gren", Code.CATEGORY, "Did you mean 'green'"),
    (3, Code.CATEGORY, "or codes 0 to 2"),
    (-1, Code.CATEGORY, "no category -1"),
    (0.5, Code.CATEGORY, "no category 0.5"),
    (True, Code.CATEGORY, "no category True"),
    (None, Code.MISSING_VALUE, "column 'colour'"),
    (float("nan"), Code.MISSING_VALUE, "column 'colour'"),
]


@pytest.mark.parametrize("which", range(len(BAD_CATEGORIES)))
def test_categories_that_are_refused(which: int) -> None:
    cell, code, said = BAD_CATEGORIES[which]
    with pytest.raises(abe.AbeError) as caught:
        explain(mixed_task(), CELLS | {"colour": cell}, "gradient")
    assert caught.value.code == code
    assert said in str(caught.value)


BAD_SETTINGS: list[tuple[dict[str, Any], Code, str]] = [
    ({"categories": {"color": ["a"], "size": ["s", "l"]}}, Code.COLUMN, "Did you mean 'colour'"),
    ({"categories": CATEGORIES | {"size": ["s", "s"]}}, Code.CATEGORY, "with repetitions"),
    ({"categories": CATEGORIES | {"size": []}}, Code.CATEGORY, "Got none"),
    ({"categories": CATEGORIES | {"size": "s"}}, Code.CATEGORY, "a list of names"),
    ({"categories": CATEGORIES | {"size": ["s", "l", "x"]}}, Code.CATEGORY, "3 names, 2 rows in 'size'"),
    ({"categories": 3}, Code.BAD_PARAMETER, "names columns"),
    ({"background": None}, Code.COLUMN, "not known"),
    ({"background": None, "columns": list(MIXED), "categories": ["colour"]}, Code.CATEGORY, "not known"),
    ({"background": MIXED | {"age": [1, 2, 3, 4, None]}}, Code.MISSING_VALUE, "'age'"),
    ({"background": {k: [] for k in MIXED}}, Code.EMPTY_BATCH, "no rows"),
    ({"columns": ["a", "a"]}, Code.COLUMN, "Two columns"),
    ({"columns": ["colour", "age", "size"]}, Code.COLUMN, "'income' that the task does not know"),
    ({"groups": {"a": ["age"], "b": ["age"]}}, Code.COLUMN, "'age' twice"),
    ({"groups": ["city"]}, Code.COLUMN, "begins with 'city_'"),
    ({"groups": {"a": [7]}}, Code.COLUMN, "Got 7"),
    ({"embeddings": {"age": "colour"}}, Code.CATEGORY, "no category"),
    ({"embeddings": {"colour": "head"}}, Code.EMBEDDING, "looks up the category 'colour'"),
    ({"inputs": "columns"}, Code.BAD_PARAMETER, "('codes', 'numbers')"),
    ({"inputs": 3}, Code.BAD_PARAMETER, "cannot be fed so"),
    ({"bounds": (1, 0)}, Code.BAD_PARAMETER, "low below high"),
    ({"bounds": ([0], [1, 2, 3])}, Code.BAD_PARAMETER, "2, one per column of numbers"),
    ({"bounds": ("a", "b")}, Code.BAD_PARAMETER, "bounds= are"),
    ({"background_rows": 0}, Code.BAD_PARAMETER, "background_rows"),
]


@pytest.mark.parametrize("which", range(len(BAD_SETTINGS)))
def test_settings_that_are_refused(which: int) -> None:
    more, code, said = BAD_SETTINGS[which]
    with pytest.raises(abe.AbeError) as caught:
        explain(mixed_task(**more), MIXED, "gradient")
    assert caught.value.code == code
    assert said in str(caught.value)


def test_a_model_that_reads_codes_elsewhere_is_refused() -> None:
    with pytest.raises(abe.AbeError, match="elsewhere than in the embeddings") as caught:
        explain(mixed_task(ReadTwice), MIXED)
    assert caught.value.code == Code.EMBEDDING


def test_without_a_background_a_reference_is_asked_for() -> None:
    task = abe.table_task(nn.Linear(3, 2))
    with pytest.raises(abe.AbeError, match="background= to table_task") as caught:
        explain(task, ROWS)
    assert caught.value.code == Code.BACKGROUND
    assert explain(task, ROWS, "ig", baseline="zero").unit_names[0] == NUMBERS
    assert explain(task, torch.ones(2, 3), "gradient").attribution.shape == (2, 3)


def test_background_references_are_of_tables_only() -> None:
    task = abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), bounds=None)
    for more in ({"baseline": "background"}, {"baseline": "background_rows"}):
        with pytest.raises(abe.AbeError, match="Only tables"):
            explain(task, torch.ones(1, 3, 1, 1), "ig", **more)
    with pytest.raises(abe.AbeError, match="Only tables"):
        explain(task, torch.ones(1, 3, 1, 1), "occlusion", removal="background_rows")


# --- functions from outside -------------------------------------------------------------------------------


class Estimator:
    """What scikit-learn calls a classifier, of a frame or an array."""

    classes_ = np.array(["no", "yes"])

    def predict_proba(self, rows: Any) -> np.ndarray:
        first = np.asarray(rows["age"] if isinstance(rows, Frame) else np.asarray(rows)[:, 0], dtype=float)
        last = np.asarray(rows["income"] if isinstance(rows, Frame) else np.asarray(rows)[:, 1], dtype=float)
        p = 1 / (1 + np.exp(0.05 * first - last))
        return np.stack([1 - p, p], 1)

    def predict(self, rows: Any) -> np.ndarray:
        return self.classes_[self.predict_proba(rows).argmax(1)]


@pytest.mark.parametrize("background", [ROWS, Frame(ROWS), BACKGROUND, BACKGROUND.numpy()])
def test_an_estimator_is_explained_by_showing_columns(background: Any) -> None:
    estimator = Estimator()
    for model in (estimator, estimator.predict_proba):
        task = abe.table_task(model, background=background)
        found = explain(task, BACKGROUND[:2], target="yes", objective="probability")
        for b in range(2):

            def value(present: set[int], b: int = b) -> float:
                rows = BACKGROUND.clone()
                rows[:, list(present)] = BACKGROUND[b, list(present)]
                return float(estimator.predict_proba(rows)[:, 1].mean())

            assert torch.allclose(found.attribution[b], brute(value, 3), atol=1e-12)
        assert found.warnings == []
    assert (task.output_kind, task.labels) == ("probabilities", ["no", "yes"])


def test_a_function_gets_names_of_categories_in_the_form_of_the_background() -> None:
    seen = list[Any]()

    def function(rows: Any) -> np.ndarray:
        seen.append(rows)
        return np.array([{"red": 1.0, "green": 2.0, "blue": 3.0}[colour] for colour in rows["colour"]])

    task = abe.table_task(
        function, background=Frame(MIXED), categories=["colour", "size"], output_kind="regression"
    )
    found = explain(task, MIXED)
    assert all(isinstance(rows, Frame) and rows.columns == list(MIXED) for rows in seen)
    wanted = torch.tensor([1, 3, 1, 2, 1]).double()
    assert torch.allclose(found.attribution[:, 0], wanted - wanted.mean())
    assert float(found.attribution[:, 1:].abs().max()) < 1e-12
    single = explain(task, MIXED, "occlusion", removal=Background())
    assert torch.allclose(single.attribution[:, 0], wanted - 1)
    group = abe.table_task(
        function,
        background=Frame(MIXED),
        categories=["colour", "size"],
        groups={"both": ["colour", "age"]},
        output_kind="regression",
    )
    assert explain(group, MIXED).unit_names[0] == ["both", "size", "income"]


def test_a_reference_of_a_function_is_a_row_of_its_background() -> None:
    task = abe.table_task(lambda rows: rows[:, 0], background=BACKGROUND, output_kind="regression")
    row = dict(zip(["column 0", "column 1", "column 2"], BACKGROUND[2].tolist(), strict=True))
    found = explain(task, BACKGROUND, removal=("row", {"row": row}))
    assert torch.allclose(found.attribution[:, 0], BACKGROUND[:, 0] - BACKGROUND[2, 0])
    with pytest.raises(abe.AbeError, match="not in it"):
        explain(task, BACKGROUND, removal=("row", {"row": dict.fromkeys(row, 1.0)}))


@pytest.mark.parametrize("method", ["ig", "gradient", "deeplift", "lrp_epsilon", "smoothgrad"])
def test_gradients_of_a_function_are_refused_by_name(method: str) -> None:
    task = abe.table_task(Estimator(), background=ROWS)
    with pytest.raises(abe.AbeError, match="a function from outside, which has no gradient") as caught:
        explain(task, BACKGROUND, method)
    assert caught.value.code == Code.NOT_DIFFERENTIABLE


def test_columns_of_a_function_are_shown_or_not() -> None:
    with pytest.raises(abe.AbeError, match="nothing in between"):
        explain(abe.table_task(Estimator(), background=ROWS), BACKGROUND, "c_lime")


BAD_FUNCTIONS: list[tuple[Any, Any, Code, str]] = [
    (3, ROWS, Code.BAD_PARAMETER, "Got int"),
    (Estimator, ROWS, Code.BAD_PARAMETER, "A class is no model"),
    (Estimator().predict, ROWS, Code.BAD_PARAMETER, "no scores"),
    (lambda rows: ["yes"] * len(rows), Frame(ROWS), Code.OUTPUT_TYPE, "Pass predict_proba"),
    (Estimator(), None, Code.BACKGROUND, "Pass background="),
    (lambda rows: 1 / 0, ROWS, Code.MODEL_FAILED, "ZeroDivisionError"),
    (lambda rows: 3.0, ROWS, Code.OUTPUT_SHAPE, "no row per input"),
    (lambda rows: np.full(len(rows), np.nan), Frame(ROWS), Code.NOT_FINITE_OUTPUT, "NaN"),
]


@pytest.mark.parametrize("which", range(len(BAD_FUNCTIONS)))
def test_functions_that_are_refused(which: int) -> None:
    model, background, code, said = BAD_FUNCTIONS[which]
    with pytest.raises(abe.AbeError) as caught:
        explain(abe.table_task(model, background=background), ROWS)
    assert caught.value.code == code
    assert said in str(caught.value)


# --- files ------------------------------------------------------------------------------------------------


def test_rows_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("income,score,age\n2,0.2,30\n1.5,0.5,41\n", encoding="utf-8")
    task = numbers_task()
    found = explain(task, file)
    wanted = explain(task, {"age": [30, 41], "income": [2, 1.5], "score": [0.2, 0.5]})
    assert torch.equal(found.attribution, wanted.attribution)
    assert found.names == ["row 0", "row 1"]
    file.with_suffix(".tsv").write_text(file.read_text().replace(",", "\t"), encoding="utf-8")
    assert torch.equal(explain(task, file.with_suffix(".tsv")).attribution, wanted.attribution)
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("colour,age,size,income\nred,20,s,1\nblue,30,l,2\n", encoding="utf-8")
    assert explain(mixed_task(), mixed).shown[1] == {
        "colour": "blue",
        "age": 30.0,
        "size": "l",
        "income": 2.0,
    }


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        ("rows.csv", "age,income,score\n1,2,3\n4,,6\n", Code.LOADING, "Row 1 of the table"),
        ("rows.csv", "age,income,score\n1,2\n", Code.LOADING, "2 cells for 3 columns"),
        ("rows.csv", "age,income,score\n1,two,3\n", Code.COLUMN, "'income'"),
        ("rows.csv", "age,income\n1,2\n", Code.COLUMN, "no column 'score'"),
        ("rows.csv", "age,age,score\n1,2,3\n", Code.DUPLICATE_NAME, "'age'"),
        ("rows.csv", "age;income;score\n1;2;3\n", Code.BAD_PARAMETER, "delimiter="),
        ("rows.csv", "age,income,score\n", Code.EMPTY_BATCH, "nothing to explain"),
        ("rows.csv", "", Code.EMPTY_BATCH, "empty"),
        ("rows.xlsx", "?", Code.LOADING, ".parquet"),
        ("rows.csv", None, Code.LOADING, "no such file"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, text: str | None, code: Code, said: str) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(abe.AbeError) as caught:
        explain(numbers_task(), file)
    assert caught.value.code == code, caught.value
    assert said in str(caught.value)


def test_a_background_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "background.csv"
    lines = [",".join(ROWS), *(",".join(map(str, row)) for row in zip(*ROWS.values(), strict=True))]
    file.write_text("\n".join(lines), encoding="utf-8")
    net = nn.Linear(3, 2).double()
    found, wanted = (explain(abe.table_task(net, background=one), ROWS) for one in (str(file), ROWS))
    assert torch.equal(found.attribution, wanted.attribution)


@pytest.mark.parametrize("background", [3, "all", object(), Path("/nowhere/rows.csv")])
def test_what_holds_no_rows_is_no_background(background: Any) -> None:
    with pytest.raises(abe.AbeError) as caught:
        abe.table_task(nn.Linear(3, 2), background=background)
    assert caught.value.code in (Code.SHAPE, Code.LOADING)


def test_columns_in_another_order_are_said() -> None:
    task = numbers_task()
    rows = {"age": [30], "income": [2], "score": [0.2]}
    for model in (task, abe.table_task(Estimator(), background=ROWS)):
        moved = explain(model, Frame({name: rows[name] for name in ("income", "score", "age")}))
        assert any(Code.COLUMN in text for text in moved.warnings)
        same = explain(model, Frame(rows))
        assert not any(Code.COLUMN in text for text in same.warnings)
        assert torch.equal(moved.attribution, same.attribution)


def test_a_column_that_never_changes_is_worth_nothing() -> None:
    background = ROWS | {"score": [0.2] * 4}
    task = abe.table_task(nn.Linear(3, 2).double(), background=background)
    for method in ("shapley", "ig", "occlusion"):
        values = explain(task, {"age": 30, "income": 2, "score": 0.2}, method).by_unit()[0]
        assert abs(values[2][1]) < 1e-12, method
