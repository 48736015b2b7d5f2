"""Which tokens of a text never move, and groups and tokens of one's own as units and references."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.task.text.texts import MODELS, TEXTS, Encoder, Tokenizer, weights

import abe
from abe.errors import AbeError, Code

QUIET: dict[str, Any] = {"progress": False, "target": 0}
TEXT = TEXTS[0]


def encoder(*, offsets: bool = True, **settings: Any) -> abe.Task:
    return abe.text_task(weights(Encoder()), Tokenizer(offsets=offsets), **settings)


def names(task: abe.Task, text: Any) -> list[list[str]]:
    found = abe.explain(task, text, "gradient_x_input", **QUIET)
    return [[name for name, _ in one] for one in found.by_unit()]


@pytest.mark.parametrize("offsets", [True, False])
def test_special_tokens_are_words_of_their_own_where_padding_alone_is_fixed(offsets: bool) -> None:
    free = encoder(fixed="padding", offsets=offsets)
    words = ["a", "charming", "and", "often", "affecting", "journey", "."]
    assert names(free, TEXT) == [["[CLS]", *words, "[SEP]"]]
    assert names(encoder(offsets=offsets), TEXT) == [[*words, "(fixed)"]]
    assert names(free, ("slow film", "dull"))[0] == ["[CLS]", "slow", "film", "[SEP]", "dull", "[SEP]"]


def test_paths_move_special_tokens_where_they_are_free() -> None:
    free, kept = encoder(fixed="padding"), encoder()
    for method in ("ig", "shapley"):
        assert float(abe.explain(kept, TEXT, method, **QUIET).attribution[0, :, 0].abs().max()) == 0
        moved = abe.explain(free, TEXT, method, **QUIET)
        assert float(moved.attribution[0, :, 0].abs().max()) > 0
        assert moved.residual is not None
        assert float(moved.residual.abs().max()) < 1e-6


def test_padding_is_fixed_all_the_same() -> None:
    together = abe.explain(encoder(fixed="padding"), list(TEXTS), "ig", **QUIET).attribution
    alone = abe.explain(encoder(fixed="padding"), TEXTS[1], "ig", **QUIET).attribution
    n = alone.shape[2]
    assert torch.allclose(together[1, :, :n], alone[0], atol=1e-9)
    assert float(together[1, :, n:].abs().max()) == 0


def test_other_words_are_put_in_and_long_texts_cut_without_their_special_tokens() -> None:
    free = encoder(fixed="padding")
    found = abe.explain(
        free, TEXT, "occlusion", removal=("words", {"instead": {"charming": "affecting"}}), **QUIET
    )
    assert [name for name, value in found.by_unit()[0] if abs(value) > 1e-9] == ["charming"]
    cut = encoder(fixed="padding", max_length=5, truncate="end")
    assert names(cut, TEXT) == [["[CLS]", "a", "charming", "[SEP]"]]


@pytest.mark.parametrize("model", MODELS)
def test_a_token_by_its_id_is_that_token(model: str) -> None:
    task = abe.text_task(weights(MODELS[model]()), Tokenizer())
    pad = abe.explain(task, TEXT, "occlusion", removal="pad", **QUIET).attribution
    by_id = abe.explain(task, TEXT, "occlusion", removal=("reference_token", {"token": 0}), **QUIET)
    assert torch.equal(by_id.attribution, pad)


def test_groups_of_ones_own_are_units() -> None:
    """As words where they are the words; what stands at fixed tokens does not matter."""
    task = encoder()
    lifted = task.lift(TEXT)
    words = lifted.units[0].labels[0, 0]
    wanted = abe.explain(task, TEXT, "shapley", removal="delete", **QUIET)
    for there in (-1, 0, 7):
        groups = torch.where(words < 0, there, 3 * words.clamp_min(0) + 1)
        found = abe.explain(task, TEXT, "shapley", units=groups, removal="delete", **QUIET)
        assert torch.allclose(found.attribution, wanted.attribution, atol=1e-12)
    masks = torch.stack([words == number for number in range(int(words.max()) + 1)])
    masks[0] |= words < 0
    found = abe.explain(task, TEXT, "shapley", units=masks, removal="delete", **QUIET)
    assert torch.allclose(found.attribution, wanted.attribution, atol=1e-12)


def test_groups_of_several_texts_and_in_metrics() -> None:
    task, texts = encoder(), list(TEXTS)
    lifted = task.lift(texts)
    groups = lifted.units[0].labels[:, 0].clamp_min(0)
    how: dict[str, Any] = {"removal": "mask", "max_units": 12, **QUIET}
    wanted = abe.explain(task, texts, "shapley", **how).attribution
    found = abe.explain(task, texts, "shapley", units=groups, **how).attribution
    assert torch.allclose(found, wanted, atol=1e-12)

    def curve(unit: Any) -> torch.Tensor:
        how = {"data": texts, "unit": unit, "step": 1, "target": 0, "progress": False}
        found = abe.evaluate(task, ["gradient_x_input"], ["deletion"], **how)  # type: ignore[arg-type]
        return found.scores["gradient_x_input"]["deletion"].values

    assert torch.equal(curve(groups), curve("word"))


REFUSED: dict[str, tuple[Any, Code, str]] = {
    **{
        f"token {token}": (
            lambda token=token: abe.explain(
                encoder(), TEXT, "ig", baseline=("reference_token", {"token": token}), **QUIET
            ),
            Code.BAD_PARAMETER,
            "token",
        )
        for token in (20, -1, 2.5, True, None, "masks")
    },
    "too short": (
        lambda: abe.explain(encoder(), TEXT, "shapley", units=np.zeros(3, int), **QUIET),
        Code.UNITS,
        "(3,)",
    ),
    "negative inside": (
        lambda: abe.explain(encoder(), TEXT, "shapley", units=np.arange(11) - 2, **QUIET),
        Code.UNITS,
        "numbers from 0 on",
    ),
    "masks that leave a token out": (
        lambda: abe.explain(encoder(), TEXT, "shapley", units=np.zeros((2, 11), bool), **QUIET),
        Code.UNITS,
        "no mask",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    run, code, said = REFUSED[name]
    with pytest.raises(AbeError) as caught:
        run()
    assert caught.value.code is code, caught.value
    assert said in str(caught.value)
