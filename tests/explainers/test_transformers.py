"""Networks of the transformers library given by two functions."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from abe.explainers import IG, M2IB, SM, Chefer, ExplanationTask, GradCAM, ModelType

pytestmark = pytest.mark.peers
IDS = torch.tensor([[48, 3, 4, 5, 49, 0], [48, 7, 8, 9, 10, 49], [48, 1, 2, 49, 0, 0]])
MASK = (IDS != 0).long()


def test_an_image_beside_token_numbers_is_explained_pair_by_pair() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 12,
        "eos_token_id": 49,
        "bos_token_id": 48,
        "pad_token_id": 0,
    }
    vision = {key: text[key] for key in list(text)[:4]} | {"image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    clip = transformers.CLIPModel(config).eval()

    def similarities(batch: Any) -> Tensor:
        return clip(
            input_ids=batch["ids"], attention_mask=batch["mask"], pixel_values=batch["image"]
        ).logits_per_image

    task = ExplanationTask(
        lambda batch: -torch.diag(similarities(batch)).sum(),
        similarities,
        ModelType.MULTIMODAL,
        explained="image",
    )
    image = torch.rand(3, 3, 32, 32)
    batch = {"image": image, "ids": IDS, "mask": MASK}
    leaf = image.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(torch.diag(similarities({**batch, "image": leaf})).sum(), leaf)
    np.testing.assert_allclose(SM(task)(batch, progress=False).attribution, expected, atol=1e-6)
    for method in (
        Chefer(task),
        GradCAM(task),
        M2IB(
            task,
            layers={"image": "vision_model.encoder.layers.1", "ids": "text_model.encoder.layers.1"},
            steps=2,
            samples=2,
        ),
    ):
        assert method(batch, progress=False).unpack()["image"].any()


def test_a_text_of_embeddings_with_its_mask() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=50,
        max_position_embeddings=16,
        num_labels=3,
    )
    bert = transformers.BertForSequenceClassification(config).eval()
    embedded = bert.bert.embeddings.word_embeddings(IDS).detach()
    y = torch.tensor([0, 1, 2])
    task = ExplanationTask(
        lambda batch: F.cross_entropy(bert(inputs_embeds=batch[0], attention_mask=batch[2]).logits, batch[1]),
        lambda batch: bert(inputs_embeds=batch[0], attention_mask=batch[2]),
        ModelType.NLPCLASSIFICATION,
    )
    made = IG(task, tolerance=0.01)([embedded, y, MASK], progress=False)
    assert made.attribution.shape == embedded.shape
    assert bool((made.residual.abs() < 0.01).all())
    assert not made.map()[MASK == 0].any()
    assert GradCAM(task, layer="bert.encoder.layer.0")([embedded, y, MASK], progress=False).attribution.any()

    own = ExplanationTask(
        lambda batch: bert(inputs_embeds=batch["e"], attention_mask=batch["m"], labels=batch["labels"]).loss,
        lambda batch: bert(inputs_embeds=batch["e"], attention_mask=batch["m"]).logits,
        ModelType.NLPCLASSIFICATION,
        explained="e",
    )
    found = SM(own)({"e": embedded, "m": MASK, "labels": y}, progress=False)
    np.testing.assert_allclose(
        found.attribution, SM(task)([embedded, y, MASK], progress=False).attribution, atol=1e-6
    )
