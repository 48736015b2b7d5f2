"""A plain module is enough where the input says what it is; what was assumed is said, the rest is refused."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import abe
from abe.errors import AbeError, Code
from abe.task.start import Given, as_task, entrance

QUIET: dict[str, Any] = {"progress": False}
X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WORDS = ["a", "fine", "bad", "film"]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(4, 5), nn.Linear(5, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids).sum(1))


def tokenizer(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def refused(code: Code, call: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(AbeError) as caught:
        call()
    assert caught.value.code is code, caught.value
    for part in parts:
        assert part in str(caught.value)


CALLS: dict[str, Callable[[Any], Any]] = {
    "explain": lambda m: abe.explain(m, X, "ig", steps=3, **QUIET),
    "by keyword": lambda m: abe.explain(task=m, raw=X, method="ig", steps=3, **QUIET),
    "explain_game": lambda m: abe.explain_game(m, X, ["shapley"], units=("grid", {"n": 2}), **QUIET)[0],
    "attack": lambda m: abe.attack(m, X, "bim", steps=2, **QUIET),
    "evaluate_robustness": lambda m: abe.evaluate_robustness(m, X, "bim", epsilons=[0.01], steps=2),
}
COMPARISONS: dict[str, Callable[[Any], Any]] = {
    "compare": lambda m: abe.compare(m, X, ["gradient"], ["insertion"], **QUIET),
    "a stream": lambda m: abe.compare(
        m, DataLoader(TensorDataset(X, torch.tensor([0, 1]))), ["gradient"], ["insertion"], **QUIET
    ),
    "evaluate": lambda m: abe.evaluate(m, ["gradient"], ["insertion"], data=X, **QUIET),
    "evaluate without data": lambda m: abe.evaluate(
        m, {"gradient": abe.explain(abe.image_task(net()), X, "gradient", **QUIET)}, ["insertion"], **QUIET
    ),
}


def numbers_of(result: Any) -> Tensor:
    return next(
        getattr(result, n) for n in ("attribution", "x_adv", "broken_at", "rates") if hasattr(result, n)
    )


@pytest.mark.parametrize("name", CALLS)
def test_a_module_gives_what_its_task_gives_and_says_what_was_assumed(name: str):
    found, right = CALLS[name](net()), CALLS[name](abe.image_task(net()))
    torch.testing.assert_close(numbers_of(found), numbers_of(right))
    (assumed,) = [text for text in found.warnings if Code.ASSUMED in text]
    assert "values from 0 to 1" in assumed
    assert "abe.image_task(model, bounds=…" in assumed
    assert not any(Code.ASSUMED in text for text in right.warnings)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_take_modules_too(name: str):
    found, right = COMPARISONS[name](net()), COMPARISONS[name](abe.image_task(net()))
    (one,), (other,) = ([s["insertion"].values for s in r.scores.values()] for r in (found, right))
    torch.testing.assert_close(one, other)
    said = [text for text in found.origins["gradient"].warnings if Code.ASSUMED in text]
    assert len(said) == (0 if name == "evaluate without data" else 1)


def test_the_rest_of_the_front_door(tmp_path: Path):
    model = net()
    assert len(abe.rule_coverage(model, X)) == len(abe.rule_coverage(abe.image_task(model), X))
    rates = abe.transfer_matrix({"a": model, "b": abe.image_task(model)}, X, "bim", steps=2).rates
    torch.testing.assert_close(rates[0], rates[1])
    assert Code.ASSUMED in abe.fit(model, X, "iba", layer="0").notes[0]
    explanation = abe.explain(abe.image_task(model), X, "gradient", **QUIET)
    scored = abe.metrics.score(explanation, model, metric="insertion")
    right = abe.metrics.score(explanation, abe.image_task(model), metric="insertion")
    torch.testing.assert_close(scored.values, right.values)
    trust = abe.trust(model, X, ["gradient"], constructions=["sign"], etas=[0.9], steps=60)
    assert any(Code.ASSUMED in text for text in trust.warnings)


@pytest.mark.parametrize("form", ["path", "text of a path", "picture", "bytes", "list"])
def test_photographs(form: str, tmp_path: Path):
    pixels = (X[0] * 255).byte().permute(1, 2, 0).numpy()
    file = tmp_path / "one.png"
    Image.fromarray(pixels).save(file)
    forms: dict[str, Any] = {
        "path": file,
        "text of a path": str(file),
        "picture": Image.fromarray(pixels),
        "bytes": pixels,
        "list": [file, file],
    }
    found = abe.explain(net(), forms[form], "gradient", **QUIET)
    right = abe.explain(abe.image_task(net()), forms[form], "gradient", **QUIET)
    torch.testing.assert_close(found.attribution, right.attribution)
    assert any(Code.ASSUMED in text for text in found.warnings)


def test_negative_values_have_no_bounds():
    task = as_task(net(), X - 0.5)
    assert task.bounds is None
    assert "have no bounds" in task.assumed[0]


def test_a_task_is_kept():
    task = abe.image_task(net())
    assert as_task(task, "anything") is task


def test_texts_with_a_tokenizer_and_pipelines():
    text = "a fine film"
    right = abe.explain(abe.text_task(Bag(), tokenizer), text, "gradient_x_input", **QUIET)
    found = abe.explain(Bag(), text, "gradient_x_input", tokenizer=tokenizer, **QUIET)
    torch.testing.assert_close(found.attribution, right.attribution)
    (said,) = [text for text in found.warnings if Code.ASSUMED in text]
    assert "abe.text_task(" in said
    pipeline = SimpleNamespace(model=Bag(), tokenizer=tokenizer, task="text-classification")
    found = abe.explain(pipeline, [text], "gradient_x_input", **QUIET)
    torch.testing.assert_close(found.attribution, right.attribution)
    found = abe.compare(Bag(), [text, "bad film"], ["ig"], ["insertion"], tokenizer=tokenizer, **QUIET)
    assert found.names == ["text 0", "text 1"]


def test_tables_with_a_background():
    model, rows = nn.Linear(2, 2).eval(), {"age": [20.0, 60.0], "income": [1.0, 3.0]}
    found = abe.explain(model, {"age": [50.0], "income": [2.0]}, "shapley", background=rows, **QUIET)
    assert [name for name, _ in found.by_unit()[0]] == ["age", "income"]
    (said,) = [text for text in found.warnings if Code.ASSUMED in text]
    assert "abe.table_task(" in said


@pytest.mark.parametrize(
    "raw",
    [{"image": X, "age": torch.rand(len(X), 1)}, (X, torch.rand(len(X), 2)), [X, torch.rand(len(X), 2)]],
)
def test_several_inputs_are_refused_by_the_constructor_that_takes_them(raw):
    with pytest.raises(AbeError, match=r"abe\.make_task") as caught:
        abe.explain(net(), raw, "gradient", **QUIET)
    assert caught.value.code is Code.UNCLEAR_INPUT


class Frame:
    """What a table looks like."""

    iloc = None
    ndim = 2


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (X[0], "abe.series_task(model, axes="),
        (X[0].numpy(), "abe.series_task"),
        (X[0, 0], "abe.table_task(model, background=rows)"),
        (X[0, 0, 0], "abe.image_task"),
        (X[None], 'abe.tensor_task(model, axes="bcdhw")'),
        (X[:, :, 0, 0].long(), "abe.text_task(model, tokenizer) for ids"),
        (X * 255, "bounds=(0, 255)"),
        ([X[0], X[1]], "abe.series_task"),
        ("a fine film", "pass tokenizer="),
        (["a fine film"], "pass tokenizer="),
        ({"image": X}, "explained="),
        (iter([X]), "only once"),
        (None, "none that say what they are"),
        (3, "int"),
        ([1, 2, 3], "list of numbers"),
        (Frame(), "background="),
        (Path("rows.csv"), "background="),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_may_be_several_things_is_refused_with_the_constructors_name(raw: Any, part: str):
    refused(Code.UNCLEAR_INPUT, lambda: abe.explain(net(), raw, "gradient", **QUIET), part)


def test_other_refusals():
    refused(Code.EMPTY_BATCH, lambda: abe.explain(net(), [], **QUIET), "empty list")
    refused(Code.UNREADABLE_IMAGE, lambda: abe.explain(net(), "no/such.png", **QUIET))
    refused(Code.UNCLEAR_INPUT, lambda: abe.evaluate(net(), ["gradient"], ["insertion"], **QUIET), "data=")
    refused(Code.BAD_PARAMETER, lambda: abe.explain(tokenizer, X, **QUIET), "image_task")
    refused(Code.BAD_PARAMETER, lambda: abe.explain(nn.Linear, X, **QUIET), "image_task")
    refused(
        Code.UNKNOWN_PARAMETER, lambda: abe.explain(net(), X, "ig", tokenizer=tokenizer, **QUIET), "for texts"
    )
    refused(Code.UNKNOWN_PARAMETER, lambda: abe.compare(net(), X, ["ig"], metrcs=1, **QUIET), "'metrics'")
    refused(
        Code.UNKNOWN_PARAMETER,
        lambda: abe.compare(abe.image_task(net()), X, ["ig"], metrcs=1, **QUIET),
        "Did you mean 'metrics'?",
    )
    generating = SimpleNamespace(model=Bag(), tokenizer=tokenizer, task="text-generation")
    refused(Code.UNSUPPORTED, lambda: abe.explain(generating, "a film", **QUIET), "text-generation")
    seeing = SimpleNamespace(model=net(), tokenizer=None, task="image-classification")
    refused(Code.UNSUPPORTED, lambda: abe.explain(seeing, X, **QUIET), "image processor")
    refused(Code.NOT_FINITE_INPUT, lambda: abe.explain(net(), X * torch.nan, "gradient", **QUIET), "sample 0")
    refused(
        Code.TARGET_MISSING,
        lambda: abe.explain(nn.Conv2d(3, 2, 1), X, "gradient", **QUIET),
        "abe.segmentation_task",
    )


def test_a_method_keeps_its_own_background():
    found = abe.explain(net(), X, "deepshap", background=X, **QUIET)
    right = abe.explain(abe.image_task(net()), X, "deepshap", background=X, **QUIET)
    torch.testing.assert_close(found.attribution, right.attribution)


def test_entrances_keep_names_and_documents():
    assert abe.explain.__name__ == "explain"
    assert "Which inputs drove" in (abe.explain.__doc__ or "")

    @entrance
    def count(task: Given, raw: Any, *, number: int = 1) -> int:
        """How many."""
        return number + len(task.assumed)

    assert count(net(), X, number=2) == 3
    assert count.__doc__ == "How many."
    wrong: Any = 1.5
    refused(Code.BAD_PARAMETER, lambda: count(net(), X, number=wrong))


def test_arrays_of_floats():
    found = abe.explain(net(), X.numpy().astype(np.float64), "gradient", **QUIET)
    torch.testing.assert_close(found.attribution, abe.explain(net(), X, "gradient", **QUIET).attribution)
