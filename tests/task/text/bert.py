"""A BERT classifier in plain PyTorch, whose parameters are called as its published weights are."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict(
            {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, 1e-12)}
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (m(x).view(b, t, self.heads, -1).transpose(1, 2) for m in self.self.values())
        scores = q @ k.transpose(2, 3) / (d // self.heads) ** 0.5 + mask
        mixed = (F.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(b, t, d)
        return self.output["LayerNorm"](x + self.output["dense"](mixed))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict(
            {"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, 1e-12)}
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        return self.output["LayerNorm"](x + self.output["dense"](F.gelu(self.intermediate["dense"](x))))


class Bert(nn.Module):
    """Words, places and types; layers of attention; the pooled first token; a head."""

    def __init__(
        self,
        entries: int = 50,
        width: int = 16,
        layers: int = 2,
        heads: int = 2,
        inner: int = 32,
        places: int = 32,
    ) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=places)
        self.bert = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(
                    {
                        "word_embeddings": nn.Embedding(entries, width),
                        "position_embeddings": nn.Embedding(places, width),
                        "token_type_embeddings": nn.Embedding(2, width),
                        "LayerNorm": nn.LayerNorm(width, 1e-12),
                    }
                ),
                "encoder": nn.ModuleDict(
                    {"layer": nn.ModuleList(_Layer(width, heads, inner) for _ in range(layers))}
                ),
                "pooler": nn.ModuleDict({"dense": nn.Linear(width, width)}),
            }
        )
        self.classifier = nn.Linear(width, 3)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Any:
        parts: Any = self.bert["embeddings"]
        place = torch.arange(input_ids.shape[1], device=input_ids.device)[None].expand_as(input_ids)
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = parts["word_embeddings"](input_ids) + parts["token_type_embeddings"](types)
        x = parts["LayerNorm"](x + parts["position_embeddings"](place))
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = (1 - seen[:, None, None, :].to(x)) * torch.finfo(x.dtype).min
        for layer in self.bert["encoder"]["layer"]:  # type: ignore[index]
            x = layer(x, mask)
        pooled = self.bert["pooler"]["dense"](x[:, 0]).tanh()  # type: ignore[index]
        return SimpleNamespace(logits=self.classifier(pooled))
