"""Small models of pairs: towers by name, by method, and models that take a pair as a whole."""

from typing import Any

import torch
from torch import Tensor, nn


class See(nn.Module):
    """A small convolutional tower (n, 3, h, w) -> (n, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).relu().mean((2, 3)))


class Read(nn.Module):
    """The mean of attended embeddings, through a layer (n, t) -> (n, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.out = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        there = attention_mask[:, :, None].to(self.out.weight)
        read = (self.inner(self.embed(ids)).tanh() * there).sum(1) / there.sum(1).clamp_min(1)
        return self.out(read)


class Named(nn.Module):
    """Towers that have to be named; the model itself compares all with all, as CLIP's forward does."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.read = See(), Read()
        self.logit_scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, image: Tensor, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.see(image) @ self.read(ids, attention_mask).T


class Methods(nn.Module):
    """The same towers behind methods, without a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.embed, self.out = See(), nn.Embedding(20, 6), nn.Linear(6, 5)
        self.logit_scale, self.logit_bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-0.5))

    def encode_image(self, image: Tensor) -> Tensor:
        return self.see(image)

    def encode_text(self, ids: Tensor) -> Tensor:
        return self.out(self.embed(ids).tanh().mean(1))


class Whole(nn.Module):
    """Takes a pair; gives what ``how`` says."""

    def __init__(self, how: str = "similarity") -> None:
        super().__init__()
        self.see, self.read, self.how = See(), Read(), how

    def forward(self, image: Tensor, ids: Tensor, attention_mask: Tensor) -> Any:
        seen, read = self.see(image), self.read(ids, attention_mask)
        if self.how == "similarity":
            return torch.cosine_similarity(seen, read, dim=1)
        if self.how == "embeddings":
            return seen, read
        if self.how == "named":
            return {"image_embeds": seen, "text_embeds": read, "logits_per_image": seen @ read.T}
        return seen @ read.T


class Recorded(nn.Module):
    """The recorded towers."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)
        self.ip, self.emb, self.pos = (
            nn.Linear(96, 16),
            nn.Embedding(20, 10),
            nn.Parameter(torch.zeros(8, 10)),
        )
        self.t1, self.q, self.tp = nn.Linear(10, 10), nn.Linear(10, 1), nn.Linear(10, 16)

    def encode_image(self, x: Tensor) -> Tensor:
        return self.ip(self.c2(self.c1(x).tanh()).relu().flatten(1))

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        z = self.t1(self.emb(ids) + self.pos[: ids.shape[1]]).tanh()
        attended = self.q(z)[..., 0].masked_fill(mask == 0, -1e4).softmax(1) * mask
        return self.tp((attended[..., None] * z).sum(1))
