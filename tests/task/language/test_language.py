"""Language tasks: steps of an answer as samples, shared passes, units, contrasts, and what is refused."""

from itertools import combinations
from math import factorial
from typing import Any

import pytest
import torch
from tests.task.language.nets import SEEN, WORDS, Bare, Causal, Syllables, Words
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code
from abe.testing.snapshot import Snapshot

PROMPT, ANSWER = "the cat sat on the mat . a dog", " ran under the mat"
QUIET: dict[str, Any] = {"progress": False}


def made(**how: Any) -> tuple[Causal, Any]:
    net = Causal()
    return net, abe.language_task(net, Words(), **how)


def log_p(net: Causal, ids: list[int], token: int) -> float:
    with torch.no_grad():
        return float(net(torch.tensor([ids])).logits[0, -1].log_softmax(0)[token])


def refusal(call: Any) -> AbeError:
    with pytest.raises(AbeError) as caught:
        call()
    return caught.value


# ---------------------------------------------------------------- what is explained


def test_every_generated_token_is_a_sample_whose_score_is_its_own_log_probability() -> None:
    net, task = made()
    found = abe.explain(task, (PROMPT, ANSWER), "gradient_x_input", **QUIET)
    ids, answer = Words()(PROMPT), Words(begins=False)(ANSWER)
    assert found.target.tolist() == answer
    assert found.target_names == ANSWER.split()
    for step, token in enumerate(answer):
        wanted = log_p(net, ids + answer[:step], token)
        assert float(found.score[step]) == pytest.approx(wanted, abs=1e-12)
        assert float(found.steps["probability"][step].log()) == pytest.approx(wanted, abs=1e-12)
    assert found.attribution.shape == (4, 1, len(ids) + 3)


def test_greedy_generation_says_what_a_plain_loop_says() -> None:
    net, task = made()
    ids = Words()(PROMPT)
    for _ in range(5):
        ids.append(int(net(torch.tensor([ids])).logits[0, -1].argmax()))
    found = abe.explain(task, PROMPT, generate=5, **QUIET)
    assert found.target.tolist() == ids[-5:]
    assert found.names == [f"{name} ({step})" for step, name in enumerate(found.target_names)]


def test_explained_are_the_prompt_and_earlier_tokens_and_nothing_behind_them() -> None:
    _, task = made()
    found = abe.explain(task, (PROMPT, ANSWER), "ig", steps=4, **QUIET)
    for step, own in enumerate(found.by_unit()):
        assert [name for name, _ in own] == PROMPT.split() + ANSWER.split()[:step]
    behind = torch.arange(found.shape[2]) >= 10 + torch.arange(4)[:, None]
    assert float(found.attribution[:, 0][behind].abs().max()) == 0
    assert float(found.attribution[:, 0, 0].abs().max()) == 0  # what begins a text never moves


def test_the_maps_of_prompts_together_are_those_of_each_alone() -> None:
    _, task = made()
    prompts = [(PROMPT, ANSWER), ("a dog was not", " good")]
    for method, how in (("ig", {"steps": 6}), ("occlusion", {}), ("shapley", {"by": "sentence"})):
        both = abe.explain(task, prompts, method, **how, **QUIET)
        for row, prompt in ((slice(0, 4), prompts[0]), (slice(4, 5), prompts[1])):
            alone = abe.explain(task, prompt, method, **how, **QUIET).attribution
            cut = both.attribution[row, :, : alone.shape[2]]
            assert float((cut - alone).abs().max()) <= 1e-12 * max(1.0, float(alone.abs().max()))


# ---------------------------------------------------------------- passes


def test_steps_share_one_forward_pass_and_take_a_backward_pass_each() -> None:
    _, task = made()
    abe.explain(task, (PROMPT, ANSWER), "gradient", **QUIET)  # finds the embedding, sees that it is causal
    SEEN.clear()
    found = abe.explain(task, (PROMPT, ANSWER), "gradient", **QUIET)
    assert found.cost.forward_rows == found.cost.forward_calls == 1
    assert len(SEEN) <= 3  # twice more to see that it answers the same
    assert found.cost.backward_rows == found.cost.backward_calls == 4


@pytest.mark.parametrize(
    ("method", "how", "rows"),
    [
        ("ig", {"steps": 8}, 8 + 2),
        ("occlusion", {"prefix": False}, 9 + 1),
        ("occlusion", {}, 9 + 3 + 1),
        ("shapley", {"prefix": False, "by": "sentence"}, 3 + 1),
        ("smoothgrad", {"samples": 5}, 5 + 1),
        ("rise", {"evaluations": 20, "prefix": False}, 20 + 1),
        ("kernel_shap", {"evaluations": 60, "prefix": False}, 60 + 1),
    ],
)
def test_rows_of_all_steps_are_run_once(method: str, how: dict[str, Any], rows: int) -> None:
    _, task = made(remember=False)
    abe.explain(task, (PROMPT, ANSWER), "gradient", **QUIET)
    together = abe.explain(task, (PROMPT, ANSWER), method, **how, **QUIET)
    assert together.cost.forward_rows <= rows
    if method in ("smoothgrad", "rise", "kernel_shap"):  # draws go by all that is given
        return
    one = abe.explain(task, (PROMPT, " ran"), method, **how, **QUIET)
    assert float((together[0].attribution[:, :, : one.shape[2]] - one.attribution).abs().max()) <= 1e-12


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_shared_rows_do_not_depend_on_the_chunk(chunk: int) -> None:
    _, task = made()
    whole = abe.explain(task, (PROMPT, ANSWER), "ig", steps=7, **QUIET).attribution
    found = abe.explain(task, (PROMPT, ANSWER), "ig", steps=7, chunk=chunk, **QUIET).attribution
    assert float((whole - found).abs().max()) <= 1e-12


def test_paths_that_part_are_run_apart() -> None:
    _, task = made()
    whole = abe.explain(task, (PROMPT, ANSWER), "guided_ig", steps=5, **QUIET)
    alone = abe.explain(task, (PROMPT + ANSWER[:14], " the"), "guided_ig", steps=5, **QUIET)
    assert whole.attribution.shape[0] == 4
    assert torch.isfinite(whole.attribution).all()
    assert alone.target_names == [whole.target_names[2]]


@pytest.mark.parametrize("removal", ["reference_token", "delete", "attention"])
def test_an_unchanged_beginning_is_run_once_with_equal_numbers(removal: str) -> None:
    how: dict[str, Any] = {"removal": removal, "generate": 3, "chunk": 2, **QUIET}
    SEEN.clear()
    kept = abe.explain(made()[1], PROMPT, "occlusion", **how)
    ran = sum(n * t for n, t in SEEN)
    SEEN.clear()
    plain = abe.explain(made(remember=False)[1], PROMPT, "occlusion", **how)
    assert float((kept.attribution - plain.attribution).abs().max()) <= 1e-12
    assert kept.cost.positions_saved == sum(n * t for n, t in SEEN) - ran > 0
    assert plain.cost.positions_saved == 0


# ---------------------------------------------------------------- values


def test_shapley_values_are_those_by_brute_force() -> None:
    net, task = made()
    prompt, token = "cat sat on", WORDS.index("under")
    found = abe.explain(task, (prompt, " under"), "shapley", removal="pad", **QUIET)

    def worth(present: tuple[int, ...]) -> float:
        ids = [1, *(n if i in present else 0 for i, n in enumerate(Words(begins=False)(prompt)))]
        return log_p(net, ids, token)

    for player, (_, share) in enumerate(found.by_unit()[0]):
        others = [i for i in range(3) if i != player]
        wanted = sum(
            factorial(size) * factorial(2 - size) / 6 * (worth((*some, player)) - worth(some))
            for size in range(3)
            for some in combinations(others, size)
        )
        assert share == pytest.approx(wanted, abs=1e-12)


def test_paths_are_complete_by_tolerance_from_the_reference_that_is_named() -> None:
    _, task = made()
    for baseline in ("pad", "mean_embedding"):
        found = abe.explain(task, (PROMPT, ANSWER), "ig", tolerance=0.01, baseline=baseline, **QUIET)
        assert found.residual is not None
        assert float(found.residual.abs().max()) <= 0.01


def test_a_whole_answer_is_one_sample_and_the_sum_of_its_steps() -> None:
    _, task = made()
    steps = abe.explain(task, (PROMPT, ANSWER), "shapley", by="sentence", prefix=False, **QUIET)
    whole = abe.explain(task, (PROMPT, ANSWER), "shapley", by="sentence", objective="sequence", **QUIET)
    assert len(whole) == 1
    assert float(whole.score) == pytest.approx(float(steps.score.sum()), abs=1e-12)
    assert float((whole.attribution[0] - steps.attribution.sum(0)).abs().max()) <= 1e-12
    chance = abe.explain(
        task, (PROMPT, ANSWER), "gradient", objective=("sequence", {"of": "probability"}), **QUIET
    )
    assert float(chance.score.log()) == pytest.approx(float(whole.score), abs=1e-12)


def test_a_contrast_is_the_difference_to_another_token_behind_the_same_tokens() -> None:
    net, task = made()
    other = " sat under a mat"
    found = abe.explain(task, (PROMPT, ANSWER), "ig", steps=5, against=other, **QUIET)
    ids, answer, others = Words()(PROMPT), Words(begins=False)(ANSWER), Words(begins=False)(other)
    for step, (token, instead) in enumerate(zip(answer, others, strict=True)):
        before = ids + answer[:step]
        wanted = log_p(net, before, token) - log_p(net, before, instead)
        assert float(found.score[step]) == pytest.approx(wanted, abs=1e-12)
    same = [step for step, (a, b) in enumerate(zip(answer, others, strict=True)) if a == b]
    assert float(found.attribution[same].abs().max()) == 0
    likely = abe.explain(task, (PROMPT, ANSWER), "gradient", against=other, objective="probability", **QUIET)
    assert float(likely.score[0]) == pytest.approx(
        float(found.steps["probability"][0]) - torch.tensor(log_p(net, ids, others[0])).exp().item(), abs=1e-7
    )


def test_named_stretches_are_the_units_and_all_else_stays() -> None:
    _, task = made()
    how: dict[str, Any] = {"spans": ["cat sat", ["the mat", (0, 3)]], "removal": "reference_token"}
    found = abe.explain(task, (PROMPT, ANSWER), "shapley", **how, **QUIET)
    assert [name for name, _ in found.by_unit()[0]] == ["cat sat", "the mat … the"]
    moved = found.attribution[0, 0] != 0
    assert moved.nonzero().flatten().tolist() == [1, 2, 3, 5, 6]


def test_words_are_taken_away_by_attention_where_the_model_takes_a_mask() -> None:
    _, task = made()
    usual, hidden, shown = (
        abe.explain(task, (PROMPT, ANSWER), "occlusion", **how, **QUIET).attribution
        for how in ({}, {"removal": "attention"}, {"removal": "reference_token"})
    )
    assert torch.equal(usual, hidden)
    assert not torch.equal(usual, shown)


def test_slots_of_a_template_hold_their_alternatives_at_any_length() -> None:
    net, task = made()
    how: dict[str, Any] = {"slots": [("cat", "dog"), ("on the mat", "")], "removal": "alternatives"}
    found = abe.explain(task, ("the {} sat {}", " ."), "shapley", **how, **QUIET)
    dot = WORDS.index(".")
    worth = {
        text: log_p(net, Words()(text), dot)
        for text in ("the cat sat on the mat", "the dog sat on the mat", "the cat sat", "the dog sat")
    }
    full, dog, short, none = worth.values()
    wanted = [(full - dog + short - none) / 2, (full - short + dog - none) / 2]
    assert [share for _, share in found.by_unit()[0]] == pytest.approx(wanted, abs=1e-12)


def test_a_sparse_fit_finds_the_sentence_that_an_answer_rests_on() -> None:
    class Copies(nn.Module):
        """Says the word that stands behind the last "was" of anything read so far."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding.from_pretrained(torch.eye(len(WORDS)), freeze=False)

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids)
            return 2 * x.cumsum(1) * (torch.arange(len(WORDS)) == WORDS.index("good"))

    task = abe.language_task(Copies(), Words())
    prompt = "the cat sat . a dog ran . the mat was good . the dog sat . a mat was on the cat ."
    found = abe.explain(
        task,
        (prompt, " good"),
        "sparse_surrogate",
        by="sentence",
        objective="sequence",
        evaluations=32,
        **QUIET,
    )
    shares = [share for _, share in found.by_unit()[0]]
    assert len(shares) == 5
    assert shares[2] > 0.1
    assert max(abs(share) for i, share in enumerate(shares) if i != 2) < 0.1 * shares[2]
    assert found.cost.forward_rows <= 32 + 4


# ---------------------------------------------------------------- what people see


def test_the_table_has_tokens_by_units_and_marks_where_the_first_is_read() -> None:
    _, task = made()
    found = abe.explain(task, (PROMPT, ANSWER), removal="reference_token", **QUIET)
    table = found.table()
    assert table.rows == ANSWER.split()
    assert table.columns == PROMPT.split() + ANSWER.split()[:-1]
    assert table.border == 9
    assert table.head(8) == "dog *"
    for row, own in enumerate(found.by_unit()):
        assert table.shares(row) == own
    assert "dog *" in str(found)
    assert "no such" not in str(found[1])


def test_the_page_of_a_table_is_escaped_and_tells_every_number(tmp_path: Any) -> None:
    words = Words()
    words.vocab = {("<b>&" if word == "cat" else word): number for word, number in words.vocab.items()}
    task = abe.language_task(Causal(), words)
    found = abe.explain(task, ("the <b>& sat", " on a"), **QUIET)
    page = found.table().html(tmp_path / "page.html")
    assert "<b>" not in page
    assert 'title="on ← &lt;b&gt;&amp;: ' in page
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page


def test_an_explanation_is_drawn_saved_and_read_again(tmp_path: Any) -> None:
    _, task = made()
    found = abe.explain(task, [(PROMPT, ANSWER), ("a dog was not", " good")], **QUIET)
    found.plot(tmp_path / "heat.png")
    found[1].plot(tmp_path / "one.png")
    found.save(tmp_path / "saved")
    again = abe.Explanation.load(tmp_path / "saved")
    assert again.table(1).rows == ["good"]
    assert torch.equal(again.steps["entropy"], found.steps["entropy"])
    assert refusal(found.table).code == Code.SAMPLES
    assert refusal(lambda: found.table(7)).code == Code.SAMPLES


def test_methods_are_compared_on_generated_tokens() -> None:
    _, task = made()
    found = abe.compare(
        task,
        [(PROMPT, " ran"), ("a dog was not", " good")],
        ["occlusion", "ig"],
        ["insertion", "deletion"],
        **QUIET,
    )
    assert set(found.methods) == {"occlusion", "integrated_gradients"}
    assert not found.failures


def test_model_and_tokenizer_are_left_as_they_were() -> None:
    net, tokenizer = Causal(), Words()
    task, before, vocabulary = abe.language_task(net, tokenizer), Snapshot(net), dict(vars(tokenizer))
    for method in ("occlusion", "ig", "lrp_epsilon"):
        abe.explain(task, PROMPT, method, generate=2, **QUIET)
    assert not before.changes()
    assert vars(tokenizer) == vocabulary


# ---------------------------------------------------------------- bad input


def test_a_prompt_and_answer_that_do_not_join_say_where() -> None:
    task = abe.language_task(Causal(entries=8), Syllables())
    told = refusal(lambda: abe.explain(task, ("un der", "stand"), **QUIET))
    assert told.code == Code.JOIN
    assert "'derst'" in str(told)
    assert "un der|stand" in str(told)
    assert abe.explain(task, ("un der", " stand"), **QUIET).target_names == ["' '", "stand"]


@pytest.mark.parametrize(
    ("raw", "how", "code", "says"),
    [
        (PROMPT, {"generate": 0}, Code.BAD_PARAMETER, "positive integer"),
        (PROMPT, {"generate": 60}, Code.TOO_LONG, "10 tokens and 60 new ones"),
        ("  ", {}, Code.EMPTY_BATCH, "empty prompt"),
        ([], {}, Code.EMPTY_BATCH, "no prompt"),
        ((PROMPT, ""), {}, Code.EMPTY_BATCH, "answer has no tokens"),
        (3.5, {}, Code.SHAPE, "no prompt"),
        ((PROMPT, ANSWER), {"generate": 2}, Code.BAD_PARAMETER, "Leave one of them out"),
        ((PROMPT, ANSWER), {"against": " sat"}, Code.SAMPLES, "4 tokens, and 1"),
        (
            (PROMPT, ANSWER),
            {"against": ANSWER, "objective": "entropy"},
            Code.OBJECTIVE,
            "compares two answers",
        ),
        (PROMPT, {"spans": ["the"]}, Code.UNITS, "2 times"),
        (PROMPT, {"spans": ["good"]}, Code.UNITS, "does not hold"),
        (PROMPT, {"spans": ["ca"]}, Code.UNITS, "inside a token"),
        ("the {} sat", {"slots": [("cat", "dog"), ("a", "b")]}, Code.BAD_PARAMETER, "2 of them for 1"),
        (PROMPT, {"removal": "alternatives"}, Code.UNSUPPORTED, "slots="),
        ([{"role": "user", "content": "the cat"}], {}, Code.TOKENIZER, "chat template"),
        (torch.rand(4), {}, Code.SHAPE, "whole numbers"),
    ],
)
def test_what_cannot_be_answered_is_said(raw: Any, how: dict[str, Any], code: Code, says: str) -> None:
    _, task = made()
    told = refusal(lambda: abe.explain(task, raw, "occlusion", **how, **QUIET))
    assert told.code == code
    assert says in str(told)


def test_a_generation_that_ends_at_once_is_an_answer() -> None:
    net, task = made()
    first = abe.explain(task, PROMPT, **QUIET)
    net.config.eos_token_id = int(first.target[0])
    found = abe.explain(task, PROMPT, generate=6, **QUIET)
    assert found.target_names == first.target_names
    assert any(Code.ANSWER_ENDED in warning for warning in found.warnings)
    assert "after 1 of 6 tokens" in found.warnings[0]


def test_a_tokenizer_needs_neither_padding_nor_a_beginning() -> None:
    task = abe.language_task(Causal(), Bare())
    for method in ("occlusion", "ig"):
        found = abe.explain(task, ["the cat sat", "a dog"], method, generate=2, **QUIET)
        assert torch.isfinite(found.attribution).all()
    deleted = abe.explain(task, ("cat", " sat"), "shapley", removal="delete", **QUIET)
    assert torch.isfinite(deleted.attribution).all()


def test_models_that_are_no_causal_language_models_are_refused() -> None:
    class Reads(Causal):
        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids)
            return self.head(x + x.mean(1, keepdim=True))

    class Classifies(Causal):
        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.embed(input_ids).mean(1))

    told = refusal(lambda: abe.explain(abe.language_task(Reads(), Words()), (PROMPT, ANSWER), **QUIET))
    assert "no causal language model" in str(told)
    told = refusal(lambda: abe.explain(abe.language_task(Classifies(), Words()), PROMPT, **QUIET))
    assert told.code == Code.OUTPUT_SHAPE


def test_a_download_that_is_attempted_is_told_as_one() -> None:
    class Fetches(Causal):
        def forward(self, input_ids: Tensor) -> Tensor:
            raise ConnectionError("Max retries exceeded with url: /api/models")

    class Away(Words):
        def __call__(self, text: str) -> list[int]:
            raise OSError("We couldn't connect to the hub to load this file")

    for task in (abe.language_task(Fetches(), Words()), abe.language_task(Causal(), Away())):
        told = refusal(lambda task=task: abe.explain(task, PROMPT, **QUIET))
        assert "over the network" in str(told)
        assert "Load everything" in str(told)


def test_a_chat_is_laid_out_by_its_template_which_stays() -> None:
    class Chats(Words):
        def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool) -> str:
            return " ".join(f"<s> {one['content']} ." for one in messages) + " was"

        def __call__(self, text: str, **how: Any) -> Any:  # type: ignore[override]
            if not how:
                return super().__call__(text)
            places, at = [], 0
            for word in text.split():
                at = text.index(word, at)
                places.append((at, at + len(word)))
            return {"input_ids": [self.vocab[w] for w in text.split()], "offset_mapping": places}

    task = abe.language_task(Causal(), Chats())
    found = abe.explain(task, [{"role": "user", "content": "the cat sat"}], "ig", steps=4, **QUIET)
    assert [name for name, _ in found.by_unit()[0]] == ["the", "cat", "sat"]
    assert float(found.attribution[0, 0, [0, 4, 5]].abs().max()) == 0


def test_ids_are_prompts_too() -> None:
    _, task = made()
    ids = Words()(PROMPT)
    wanted = abe.explain(task, (PROMPT, ANSWER), **QUIET).attribution
    for raw in ((ids, Words(begins=False)(ANSWER)), (torch.tensor(ids), ANSWER.strip())):
        assert torch.equal(abe.explain(task, raw, **QUIET).attribution, wanted)
    rows = abe.explain(task, torch.tensor([ids, ids]), generate=2, **QUIET)
    assert len(rows) == 4
