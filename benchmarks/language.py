"""Language models against captum's `LLMAttribution`, in turn, on the same rows: numbers, seconds, memory.

The model is a Llama from its configuration, of random weights. captum asks one row at a time: for language
models it can do no other. Both get ids, and the same token in the place of an absent one.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import abe

VOCABULARY, PROMPT, ANSWER, ABSENT, STEPS = 400, 32, 8, 1, 20
WIDTH, LAYERS, HEADS = 256, 6, 8
Run = Callable[[], Tensor]


def run(rounds: int = 3) -> Iterator[dict[str, Any]]:
    """A row for each definition that both have; ratios are captum's over ours."""
    ours, theirs = sides()
    for name in ours:
        runs = (ours[name], theirs[name])
        mine, other = (one() for one in runs)  # which warms both
        seconds: list[list[float]] = [[], []]
        for _ in range(rounds):
            for which, one in enumerate(runs):
                start = time.process_time()
                one()
                seconds[which].append(time.process_time() - start)
        peaks = [_peak(name, side) for side in ("abe", "captum")]
        yield {
            "method": name,
            "difference": float((mine - other).abs().max() / other.abs().max()),
            "abe_seconds": median(seconds[0]),
            "captum_seconds": median(seconds[1]),
            "captum_over_abe": median(b / a for a, b in zip(*seconds, strict=True)),
            "peak_mb": dict(zip(("abe", "captum"), peaks, strict=True)),
        }


def sides() -> tuple[dict[str, Run], dict[str, Run]]:
    """By definition, how each library gives (answer, prompt) numbers for one prompt."""
    model, tokenizer = subject()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, VOCABULARY, (PROMPT + ANSWER,), generator=generator).tolist()
    return _ours(model, ids), _theirs(model, tokenizer, ids)


def subject() -> tuple[Any, Any]:
    """The model, and a tokenizer whose words are the numbers of tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    settings = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
    )
    model = LlamaForCausalLM(settings).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
    words = Tokenizer(models.WordLevel({f"w{i}.": i for i in range(VOCABULARY)}, unk_token="w1."))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0.", unk_token="w1.")
    return model, tokenizer


def _ours(model: Any, ids: list[int]) -> dict[str, Run]:
    task = abe.language_task(model)
    raw = [(ids[:PROMPT], ids[PROMPT:])]
    absent = ("reference_token", {"token": ABSENT})

    def given(method: str, **how: Any) -> Run:
        def explain() -> Tensor:
            found = abe.explain(task, raw, (method, how), prefix=False, by="token", progress=False)
            return found.attribution[:, 0, :PROMPT]

        return explain

    return {
        "ablation": given("occlusion", removal=absent),
        "integrated gradients": given("integrated_gradients", baseline=absent, steps=STEPS),
        "gradient x input": given("gradient_x_input"),
    }


def _theirs(model: Any, tokenizer: Any, ids: list[int]) -> dict[str, Run]:
    from captum.attr import (
        FeatureAblation,
        LayerGradientXActivation,
        LayerIntegratedGradients,
        LLMAttribution,
        LLMGradientAttribution,
        TextTokenInput,
    )

    prompt = " ".join(f"w{i}." for i in ids[:PROMPT])
    given = TextTokenInput(prompt, tokenizer, baselines=ABSENT)
    answer = torch.tensor(ids[PROMPT:])
    places = model.model.embed_tokens
    ablation = LLMAttribution(FeatureAblation(model), tokenizer)
    path = LLMGradientAttribution(LayerIntegratedGradients(model, places), tokenizer)
    product = LLMGradientAttribution(LayerGradientXActivation(model, places), tokenizer)
    return {
        # its cache is wrong from the second token on with this transformers
        "ablation": lambda: ablation.attribute(given, target=answer, use_cached_outputs=False).token_attr,
        "integrated gradients": lambda: path.attribute(given, target=answer, n_steps=STEPS).token_attr,
        "gradient x input": lambda: product.attribute(given, target=answer).token_attr,
    }


def _peak(name: str, side: str) -> float:
    """Peak resident memory in MB of a process that does this alone."""
    command = [sys.executable, "-m", "benchmarks.language", name, side]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


if __name__ == "__main__":
    torch.set_num_threads(2)
    ours, theirs = sides()
    {"abe": ours, "captum": theirs}[sys.argv[2]][sys.argv[1]]()
    # not ru_maxrss, which a new process takes over from the one that started it
    print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024)
