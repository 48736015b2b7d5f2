"""Texts: words and their shares, what is fixed, references, removals, and what is refused."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.task.text.texts import MODELS, TEXTS, Bag, Encoder, TextCNN, Tokenizer, weights
from torch import Tensor, nn

import abe
from abe.errors import Code, SpecError

LONG = TEXTS[0]


def task_of(name: str = "Encoder", tokenizer: Any = None, **how: Any) -> abe.Task:
    return abe.text_task(weights(MODELS[name]()), Tokenizer() if tokenizer is None else tokenizer, **how)


def logits(model: nn.Module, ids: list[int], **more: Any) -> Tensor:
    out = model(torch.tensor([ids]), **more)
    return getattr(out, "logits", out)[0].detach()


def refused(code: Code, *args: Any, **how: Any) -> str:
    with pytest.raises(abe.AbeError) as caught:
        abe.explain(*args, progress=False, **how)
    assert caught.value.code == code, caught.value
    return str(caught.value)


# --- known answers ----------------------------------------------------------------------------------------


def test_a_word_has_the_same_share_when_it_is_cut_into_pieces_of_the_same_sum() -> None:
    model, whole, cut = weights(Bag()), Tokenizer(special=False), Tokenizer(special=False)
    whole.pieces = {}
    with torch.no_grad():
        table = model.embed.weight
        table[whole.vocab["charming"]] = table[whole.vocab["charm"]] + table[whole.vocab["##ing"]]
        table[whole.vocab["affecting"]] = table[whole.vocab["affect"]] + table[whole.vocab["##ing"]]
    one, other = (
        abe.explain(abe.text_task(model, tokenizer), LONG, "gradient_x_input", target=0, progress=False)
        for tokenizer in (whole, cut)
    )
    assert [v for _, v in one.by_unit()[0]] == pytest.approx([v for _, v in other.by_unit()[0]], abs=1e-12)


@pytest.mark.parametrize("removal", ["mask", "attention", "delete"])
def test_shapley_of_words_is_brute_force_over_hand_made_inputs(removal: str) -> None:
    task, text = task_of(), "a charming film"
    tokenizer = Tokenizer()
    ids = tokenizer(text)["input_ids"]
    words = [-1, 0, 1, 1, 2, -1]

    def value(present: frozenset[int]) -> float:
        stays = [word < 0 or word in present for word in words]
        if removal == "mask":
            made = [i if here else tokenizer.vocab["[MASK]"] for i, here in zip(ids, stays, strict=True)]
            out = logits(
                task.model, made, attention_mask=torch.ones(1, 6), token_type_ids=torch.zeros(1, 6).long()
            )
        elif removal == "attention":
            mask = torch.tensor([[int(here) for here in stays]])
            out = logits(task.model, ids, attention_mask=mask, token_type_ids=torch.zeros(1, 6).long())
        else:
            made = [i for i, here in zip(ids, stays, strict=True) if here]
            n = len(made)
            out = logits(
                task.model, made, attention_mask=torch.ones(1, n), token_type_ids=torch.zeros(1, n).long()
            )
        return float(out[2])

    shares = [0.0] * 3
    for order in itertools.permutations(range(3)):
        for place, word in enumerate(order):
            before = frozenset(order[:place])
            shares[word] += (value(before | {word}) - value(before)) / 6
    found = abe.explain(task, text, "shapley", removal=removal, target=2, progress=False)
    assert [v for _, v in found.by_unit()[0]] == pytest.approx(shares, abs=1e-9)
    assert float(found.residual_absolute.abs()) < 1e-9


@pytest.mark.parametrize("name", ["TextCNN", "BiGRU"])
def test_deletion_without_a_mask_runs_the_shorter_text(name: str) -> None:
    tokenizer = Tokenizer(special=False)
    task = task_of(name, tokenizer)
    ids = tokenizer("not slow film")["input_ids"]
    found = abe.explain(task, "not slow film", "occlusion", removal="delete", target=0, progress=False)
    whole = logits(task.model, ids)[0]
    lost = [float(whole - logits(task.model, ids[:i] + ids[i + 1 :])[0]) for i in range(3)]
    assert [v for _, v in found.by_unit()[0]] == pytest.approx(lost, abs=1e-9)


def test_a_deleted_text_is_one_padding_token() -> None:
    tokenizer = Tokenizer(special=False)
    task = task_of("TextCNN", tokenizer)
    ids = tokenizer("dull")["input_ids"]
    found = abe.explain(task, "dull", "occlusion", removal="delete", target=0, progress=False)
    lost = logits(task.model, ids)[0] - logits(task.model, [tokenizer.vocab["[PAD]"]])[0]
    assert found.by_unit()[0] == [("dull", pytest.approx(float(lost), abs=1e-9))]


def test_given_words_stand_in_for_others_and_the_rest_stays() -> None:
    tokenizer = Tokenizer()
    task = task_of()
    found = abe.explain(
        task,
        "not dull film",
        "shapley",
        removal=("words", {"instead": {"dull": "slow"}}),
        target=1,
        progress=False,
    )
    n = 5
    more = {"attention_mask": torch.ones(1, n), "token_type_ids": torch.zeros(1, n).long()}
    change = (
        logits(task.model, tokenizer("not dull film")["input_ids"], **more)[1]
        - logits(task.model, tokenizer("not slow film")["input_ids"], **more)[1]
    )
    assert [v for _, v in found.by_unit()[0]] == pytest.approx([0, float(change), 0], abs=1e-9)


# --- what is fixed, and rows that do not depend on each other -----------------------------------------------


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("method", ["ig", "shapley", "gradient_x_input", "mfaba"])
def test_a_batch_gives_what_each_text_gives_alone(name: str, method: str) -> None:
    task = task_of(name)
    together = abe.explain(task, list(TEXTS), method, progress=False)
    for place, text in enumerate(TEXTS):
        alone = abe.explain(task, text, method, progress=False)
        assert [n for n, _ in together.by_unit()[place]] == [n for n, _ in alone.by_unit()[0]]
        values, wanted = ([v for _, v in one] for one in (together.by_unit()[place], alone.by_unit()[0]))
        assert values == pytest.approx(wanted, abs=1e-9)


WHOLE: dict[str, dict[str, Any]] = {
    **{one: {} for one in ("grad_cam", "hires_cam", "eigen_cam", "score_cam", "ablation_cam")},
    "guided_grad_cam": {},
    "iba": {"steps": 2},
    "input_iba": {"steps": 2},
    "meaningful_perturbation": {"steps": 3},
    "extremal_perturbation": {"steps": 3},
}
"""Methods that look at a text as a whole."""


@pytest.mark.parametrize("name", ["Bag", "TextCNN", "BiGRU"])
@pytest.mark.parametrize("method", WHOLE)
def test_a_map_ends_where_its_text_ends(name: str, method: str) -> None:
    task = task_of(name)
    together = abe.explain(
        task, list(TEXTS), method, ids=[0, 1, 2], progress=False, **WHOLE[method]
    ).attribution
    for place, text in enumerate(TEXTS):
        alone = abe.explain(task, text, method, ids=[place], progress=False, **WHOLE[method]).attribution[0]
        t = alone.shape[1]
        torch.testing.assert_close(together[place, :, :t], alone)
        assert not together[place, :, t:].any()


def test_what_gradients_give_to_special_tokens_is_shown_apart() -> None:
    found = abe.explain(task_of(), LONG, "gradient_x_input", progress=False)
    *words, (name, rest) = found.by_unit()[0]
    assert name == "(fixed)"
    assert sum(v for _, v in words) + rest == pytest.approx(float(found.attribution.sum()), abs=1e-12)


def test_model_and_tokenizer_are_left_as_found() -> None:
    model, tokenizer = weights(Encoder()).train(), Tokenizer()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    entries = dict(tokenizer.vocab)
    task = abe.text_task(model, tokenizer)
    abe.explain(task, LONG, "ig", progress=False)
    abe.explain(task, LONG, "shapley", removal="delete", progress=False)
    assert model.training
    assert tokenizer.vocab == entries
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


# --- units ------------------------------------------------------------------------------------------------


def test_words_tokens_clauses_and_sentences() -> None:
    text = "not dull , a charming film . slow film"
    task = task_of()
    sizes = {}
    for unit in ("word", "token", "clause", "sentence"):
        found = abe.explain(task, text, "shapley", units=unit, progress=False)
        sizes[unit] = int(found.diagnostics["evaluations"][0])
        assert float(found.residual_absolute.abs()) < 1e-9
    assert sizes["clause"] == 2**3 - 1
    assert sizes["sentence"] == 2**2 - 1


def test_names_come_from_the_text_with_and_without_offsets() -> None:
    for offsets in (True, False):
        task = task_of(tokenizer=Tokenizer(offsets=offsets))
        found = abe.explain(task, "a charming film", "gradient_x_input", progress=False)
        assert found.unit_names == [["a", "charming", "film"]]
        assert found.unit == "word"
        assert found.shown == ["a charming film"]


def test_a_pair_is_numbered_through_and_its_separators_are_fixed() -> None:
    found = abe.explain(task_of(), ("not dull", "a charming film"), "shapley", progress=False)
    assert found.unit_names == [["not", "dull", "a", "charming", "film"]]
    assert found.labels is not None
    assert found.labels[0, 0].tolist() == [-1, 0, 1, -1, 2, 3, 3, 4, -1]


# --- forms of input ---------------------------------------------------------------------------------------


def test_one_text_has_many_forms(tmp_path: Path) -> None:
    tokenizer, text = Tokenizer(), "not dull"
    task = task_of(tokenizer=tokenizer)
    file = tmp_path / "texts.txt"
    file.write_text("not dull\n\n", encoding="utf-8")
    made = tokenizer(text)
    ids = made["input_ids"]
    wanted = abe.explain(task, text, "ig", progress=False).by_unit()[0]
    encoding = {
        k: torch.tensor([v])
        for k, v in made.items()
        if k in ("input_ids", "attention_mask", "token_type_ids")
    }
    for form in ([text], (text,), file, ids, torch.tensor([ids]), torch.tensor(ids), encoding, [ids]):
        found = abe.explain(task, form, "ig", progress=False).by_unit()[0]
        assert [n for n, _ in found] == [n for n, _ in wanted]
        assert [v for _, v in found] == pytest.approx([v for _, v in wanted], abs=1e-9), form


def test_a_named_embedding_and_one_found_are_the_same() -> None:
    model, tokenizer = weights(TextCNN()), Tokenizer()
    found, named = (
        abe.explain(abe.text_task(model, tokenizer, embedding=one), LONG, "ig", progress=False)
        for one in (None, "embed")
    )
    assert torch.equal(found.attribution, named.attribution)
    assert found.parts[0].layer == "embed"


def test_labels_and_kinds_come_from_a_configuration() -> None:
    task = task_of()
    assert task.labels == ["bad", "good", "neither"]
    assert abe.explain(task, LONG, "ig", target="good", progress=False).target_names == ["good"]


def test_references_are_the_vectors_of_tokens() -> None:
    tokenizer = Tokenizer()
    task = task_of(tokenizer=tokenizer)
    table = task.model.words.weight.detach()  # type: ignore[union-attr]
    for name, number in (("mask", 4), ("pad", 0), ("unk", 1)):
        found = abe.explain(task, LONG, "ig", baseline=name, path_ends=True, progress=False)
        start = found.diagnostics["path_start"][0]
        inside = (found.labels[0, 0] >= 0).nonzero().flatten()  # type: ignore[index]
        assert torch.allclose(start[:, inside].T, table[number].expand(len(inside), -1))
    mean = abe.explain(task, LONG, "ig", baseline="mean_embedding", path_ends=True, progress=False)
    assert torch.allclose(mean.diagnostics["path_start"][0][:, 1], table.mean(0))
    other = abe.explain(
        task, "not dull", "ig", baseline=("text", {"text": "slow film"}), path_ends=True, progress=False
    )
    assert torch.allclose(other.diagnostics["path_start"][0][:, 1], table[tokenizer.vocab["slow"]])


# --- metrics, comparison, attacks -------------------------------------------------------------------------


def test_curves_change_one_word_after_the_other() -> None:
    tokenizer, text = Tokenizer(), "not slow film"
    task = task_of(tokenizer=tokenizer)
    found = abe.explain(task, text, "shapley", target=1, progress=False)
    order = sorted(range(3), key=lambda i: -found.by_unit()[0][i][1])
    ids = tokenizer(text)["input_ids"]
    more = {"attention_mask": torch.ones(1, 5), "token_type_ids": torch.zeros(1, 5).long()}
    curve = []
    for gone in range(4):
        hidden = {order[i] + 1 for i in range(gone)}
        made = [tokenizer.vocab["[MASK]"] if place in hidden else one for place, one in enumerate(ids)]
        curve.append(float(logits(task.model, made, **more).softmax(0)[1]))
    area = sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / 3
    score = abe.evaluate(task, {"shapley": found}, ["deletion"], data=text, target=1, progress=False)
    assert float(score.scores["shapley"]["deletion"].values[0]) == pytest.approx(area, abs=1e-9)


def test_texts_of_different_lengths_are_scored_as_if_alone() -> None:
    task = task_of()
    together = abe.compare(task, list(TEXTS), ["shapley"], ["insertion", "deletion"], progress=False)
    for place, text in enumerate(TEXTS):
        alone = abe.compare(task, text, ["shapley"], ["insertion", "deletion"], progress=False)
        for metric in ("insertion", "deletion"):
            both = [c.scores["shapley"][metric].values for c in (together, alone)]
            assert float(both[0][place]) == pytest.approx(float(both[1][0]), abs=1e-9)


@pytest.mark.parametrize("name", ["Encoder", "TextCNN"])
def test_a_comparison_runs_with_its_defaults(name: str) -> None:
    found = abe.compare(task_of(name), list(TEXTS), ["ig", "shapley", "gradient_x_input"], progress=False)
    assert set(found.scores) == {"integrated_gradients", "shapley", "gradient_x_input"}
    assert not found.failures


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "mim", "sinim", "gra", "cw"])
def test_an_attack_moves_words_and_leaves_special_tokens(attack: str) -> None:
    task = task_of()
    lifted = task.lift(list(TEXTS))
    found = abe.attack(task, list(TEXTS), attack, progress=False)
    moved = (found.x_adv - lifted.x).abs()
    fixed = (lifted.units[0].labels < 0).expand_as(moved)
    assert float(moved[fixed].max()) == 0
    assert float(moved[~fixed].max()) > 0


# --- what is refused --------------------------------------------------------------------------------------


class TwoTables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Embedding(20, 4), nn.Embedding(20, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head((self.one(ids) + self.other(ids)).mean(1))


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(20, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.bag(ids))


def test_an_embedding_that_is_not_clear_is_asked_for() -> None:
    says = refused(Code.EMBEDDING, abe.text_task(weights(TwoTables()), Tokenizer()), LONG)
    assert "'one'" in says
    assert "'other'" in says
    assert "EmbeddingBag 'bag'" in refused(
        Code.EMBEDDING, abe.text_task(weights(Pooled()), Tokenizer()), LONG
    )


def test_empty_texts_are_refused_by_name() -> None:
    for empty in ("", "   ", ["not dull", ""], []):
        refused(Code.EMPTY_BATCH, task_of(), empty)
    assert "special tokens only" in refused(Code.EMPTY_BATCH, task_of(), [[2, 3]])


def test_a_text_that_is_too_long_is_refused_or_cut() -> None:
    text = "slow " * 40
    says = refused(Code.TOO_LONG, task_of(), text)
    assert "42 tokens" in says
    assert "32" in says
    found = abe.explain(task_of(truncate="end"), text, "gradient_x_input", progress=False)
    assert found.attribution.shape[2] == 32
    assert any(Code.TRUNCATED in one for one in found.warnings)


def test_a_tokenizer_that_does_not_fit_is_named_with_token_and_id() -> None:
    tokenizer = Tokenizer()
    tokenizer.vocab["film"] = 77
    says = refused(Code.TOKENIZER, task_of(tokenizer=tokenizer), "slow film")
    assert "'film'" in says
    assert "77" in says


def test_a_token_that_a_tokenizer_lacks_is_not_added() -> None:
    tokenizer = Tokenizer()
    tokenizer.mask_token = None  # type: ignore[assignment]
    task = task_of(tokenizer=tokenizer)
    assert "mask" in refused(Code.UNSUPPORTED, task, LONG, method="ig", baseline="mask")
    found = abe.explain(task, LONG, "ig", path_ends=True, progress=False)  # padding stands in
    table = task.model.words.weight  # type: ignore[union-attr]
    assert torch.allclose(found.diagnostics["path_start"][0][:, 1], table[0])


def test_unknown_words_are_said() -> None:
    found = abe.explain(task_of(), "not zygomatic", "ig", progress=False)
    assert any(Code.UNKNOWN_WORDS in one for one in found.warnings)


@pytest.mark.parametrize("bad", [3.5, ["a", 3], {"text": "a"}, torch.rand(1, 4), object(), b"bytes"])
def test_what_is_no_text_is_refused(bad: Any) -> None:
    with pytest.raises(abe.AbeError):
        abe.explain(task_of(), bad, progress=False)


def test_an_attention_that_the_model_does_not_take_cannot_end() -> None:
    refused(Code.UNSUPPORTED, task_of("BiGRU"), LONG, method="occlusion", removal="attention")


def test_encodings_without_padding_are_each_a_text() -> None:
    """What a tokenizer gives for a list of texts, where nobody asks for tensors."""
    tokenizer = Tokenizer()
    made = [tokenizer(text) for text in TEXTS]
    names = ("input_ids", "attention_mask", "token_type_ids")
    ragged = {name: [one[name] for one in made] for name in names}
    one = {"input_ids": [8], "attention_mask": [1], "token_type_ids": [0]}
    assert abe.explain(task_of(tokenizer=tokenizer), one, "ig", progress=False).unit_names == [["often"]]
    for given in (ragged, {"input_ids": ragged["input_ids"]}):
        found = abe.explain(task_of(tokenizer=tokenizer), given, "ig", target=0, progress=False)
        wanted = abe.explain(task_of(tokenizer=tokenizer), list(TEXTS), "ig", target=0, progress=False)
        assert torch.equal(found.attribution, wanted.attribution)
        assert [own[0] for own in found.unit_names] == ["a", "not", "slow"]


@pytest.mark.parametrize(
    ("encoding", "code", "said"),
    [
        ({"input_ids": [[2, 8, 3]], "attention_mask": [[1, 1]]}, Code.SHAPE, "attention mask"),
        ({"input_ids": [[2, 8, 3]], "attention_mask": [[0, 0, 0]]}, Code.EMPTY_BATCH, "text 0"),
        ({"input_ids": [[2, -1, 3]]}, Code.TOKENIZER, "id -1"),
        ({"input_ids": [[2, 99, 3], [2, 8, 8, 3]]}, Code.TOKENIZER, "id 99"),
        ({"input_ids": [[2, 8, 3]] * 2, "token_type_ids": [0, 0, 0]}, Code.SHAPE, "token_type_ids"),
        ({"ids": [[2, 8, 3]]}, Code.SHAPE, "input_ids"),
        ({"input_ids": []}, Code.SHAPE, "Ids of tokens"),
    ],
)
def test_encodings_that_are_refused(encoding: Any, code: Code, said: str) -> None:
    assert said in refused(code, task_of(), encoding)


@pytest.mark.parametrize("layer", ["head", "norm", "q.0"])
def test_a_named_module_that_looks_nothing_up_is_refused(layer: str) -> None:
    says = refused(Code.EMBEDDING, task_of(embedding=layer), LONG, method="ig")
    assert repr(layer) in says


@pytest.mark.parametrize("layer", ["nope", "places", "types"])
def test_another_table_than_the_tokens_is_refused(layer: str) -> None:
    with pytest.raises(abe.AbeError):
        abe.explain(task_of(embedding=layer), LONG, "ig", progress=False)


def test_a_tokenizer_that_fails_is_named_with_the_text() -> None:
    words = {"slow": 11}
    task = abe.text_task(weights(Bag()), lambda text: [words[word] for word in text.split()])
    says = refused(Code.TOKENIZER, task, "slow film")
    assert "'slow film'" in says
    assert "KeyError" in says


def test_one_word_is_an_answer() -> None:
    task = task_of()
    values = [abe.explain(task, "dull", method, progress=False).by_unit() for method in ("ig", "shapley")]
    assert [len(own[0]) for own in values] == [1, 1]
    assert values[0][0][0][1] == pytest.approx(values[1][0][0][1], rel=1e-6)


class Packed(nn.Module):
    """A recurrent net that packs what it reads, so that no step sees padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(20, 6), nn.GRU(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embed(ids), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        return self.head(self.rnn(packed)[1][0])


@pytest.mark.parametrize(
    ("method", "how"), [("ig", {}), ("shapley", {"removal": "mask"}), ("shapley", {"removal": "delete"})]
)
def test_packed_sequences_keep_their_order(method: str, how: dict[str, Any]) -> None:
    task = abe.text_task(weights(Packed()), Tokenizer())
    texts = ["slow", *TEXTS]  # the shortest first: packing sorts them, and puts them back
    together = abe.explain(task, texts, method, target=1, progress=False, **how)
    for place, text in enumerate(texts):
        alone = abe.explain(task, text, method, target=1, progress=False, **how).by_unit()[0]
        assert [v for _, v in together.by_unit()[place]] == pytest.approx([v for _, v in alone], abs=1e-9)
    if how.get("removal") == "delete":
        ids = Tokenizer()("slow")["input_ids"]
        with torch.no_grad():
            whole, less = (task.model(torch.tensor([i]), torch.tensor([len(i)]))[0, 1] for i in (ids, [2, 3]))
        assert together.by_unit()[0][0][1] == pytest.approx(float(whole - less), abs=1e-9)
        padded = {"input_ids": torch.tensor([[*ids, 0, 0]]), "lengths": torch.tensor([3])}
        seen = {"attention_mask": torch.tensor([[1, 1, 1, 0, 0]])}
        found = abe.explain(task, padded | seen, method, target=1, progress=False, **how)
        assert found.by_unit()[0][0][1] == pytest.approx(float(whole - less), abs=1e-9)
    assert "_pack_padded_sequence" in refused(Code.RULE, task, texts, method="lrp_epsilon")


def test_the_name_of_a_tokenizer_is_none() -> None:
    with pytest.raises(SpecError, match="not its name"):
        abe.text_task(Bag(), "bert-base-uncased")
