"""CLIP and SigLIP of Hugging Face from configuration: every method is finite or refused by a code."""

from typing import Any

import pytest
import torch
from torch import Tensor

import abe
from abe.errors import AbeError
from abe.registry import methods
from abe.testing.snapshot import Snapshot

pytestmark = pytest.mark.peers
FEW = {"evaluations": 200, "samples": 2, "steps": 4, "rounds": 2, "search_steps": 2}
IDS = torch.tensor([[48, 7, 9, 3, 21, 49], [48, 5, 11, 49, 0, 0]])


def model_of(kind: str) -> Any:
    library = pytest.importorskip("transformers")
    text = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 8}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 4}
    torch.manual_seed(0)
    if kind == "clip":
        text |= {"bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 0}
        config = library.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        return library.CLIPModel(config).double().eval()
    config = library.SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=vision)
    model = library.SiglipModel(config).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.2)
    return model


def pairs() -> dict[str, Any]:
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    special = (IDS == 48) | (IDS == 49) | (IDS == 0)
    text = {"input_ids": IDS, "attention_mask": (IDS != 0).long(), "special_tokens_mask": special.long()}
    return {"image": x, "text": text}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_similarities_are_the_diagonal_of_the_models_own_block(kind: str) -> None:
    model, raw = model_of(kind), pairs()
    found = abe.explain(abe.pair_task(model, score="logit"), raw, "gradient", progress=False)
    ids = raw["text"]["input_ids"]
    if kind == "siglip":  # reads captions as long as it was trained with, padding too
        ids = torch.nn.functional.pad(ids, (0, 8 - ids.shape[1]))
        mask: Tensor | None = None
    else:
        mask = raw["text"]["attention_mask"]
    with torch.no_grad():
        block = model(pixel_values=raw["image"], input_ids=ids, attention_mask=mask).logits_per_image
    if kind == "clip":
        assert torch.allclose(found.score, block.diagonal(), atol=1e-9)
    assert found.score.shape == (2,)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_paths_and_rules_are_complete(kind: str) -> None:
    task, raw = abe.pair_task(model_of(kind)), pairs()
    found = abe.explain(task, raw, "ig", tolerance=0.01, progress=False)
    assert float(found.residual.abs().max()) <= 0.01
    found = abe.explain(task, raw, "deeplift", progress=False)
    assert float(found.residual_absolute.abs().max()) <= 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("side", ["both", "image", "text"])
def test_every_method_is_finite_or_refused_by_a_code(kind: str, side: Any) -> None:
    model, raw = model_of(kind), pairs()
    task, before = abe.pair_task(model, explain=side), Snapshot(model)
    counts = {"finite": 0, "coded": 0}
    for entry in methods.entries():
        if entry.required() or task.modality not in entry.card.modalities:
            continue
        known = entry.parameters()
        how = {name: most for name, most in FEW.items() if name in known}
        try:
            found = abe.explain(task, raw, entry.name, progress=False, **how)
        except AbeError:
            counts["coded"] += 1
            continue
        assert bool(torch.isfinite(found.attribution).all()), entry.name
        counts["finite"] += 1
    assert not before.changes()
    assert counts["finite"] >= 50, counts
