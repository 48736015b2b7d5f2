"""AdvGAN: training that fools, goes on after an interruption, and refuses what it cannot learn from."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.robustness.common import images, net

import abe
from abe.robustness import AdvGAN, train_advgan
from abe.testing import check_update
from abe.testing.snapshot import Snapshot


def task_and_data():
    base = images()[:3]
    shifted = torch.cat([base.roll(k, 3) for k in range(4)])
    return abe.image_task(net("s"), output_kind="logits"), shifted


def test_a_trained_generator_fools_within_its_radius(tmp_path):
    task, x = task_and_data()
    before = Snapshot(task.model)
    made = train_advgan(task, x, tmp_path / "g.safetensors", eps=0.3, epochs=25, batch=6, rate=5e-3)
    found = abe.attack(task, x, made, progress=False)
    assert float(found.success.double().mean()) >= 0.5
    assert 0 < float(found.distance["linf"].max()) <= 0.3 + 1e-9
    small = abe.attack(task, x, "advgan", checkpoint=made.checkpoint, eps=0.01, progress=False)
    assert float(small.distance["linf"].max()) <= 0.01 + 1e-9
    assert before.changes() == []
    again = abe.attack(task, x[3:4], made, progress=False)
    assert torch.equal(again.x_adv[0], found.x_adv[3])


def test_an_interrupted_training_goes_on_to_the_same_generator(tmp_path):
    task, x = task_and_data()
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    train_advgan(task, x, whole, epochs=4, batch=6)

    class InterruptError(Exception):
        pass

    def stop(*_):
        raise InterruptError

    train_advgan(task, x, parts, epochs=2, batch=6)
    seen = []
    handle = task.model[0].register_forward_hook(lambda *a: seen.append(1) if len(seen) < 3 else stop())
    with pytest.raises(InterruptError):
        train_advgan(task, x, parts, epochs=4, batch=6)
    handle.remove()
    train_advgan(task, x, parts, epochs=4, batch=6)
    one, two = load_file(whole), load_file(parts)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not list(tmp_path.glob("*.part"))


def test_what_it_cannot_learn_from(tmp_path):
    task, x = task_and_data()
    path = tmp_path / "g.safetensors"
    for data in (None, [], x[:0], x[:1], "photos", ["a"]):
        with pytest.raises(abe.AbeError, match="ABE-TRAINING-DATA"):
            train_advgan(task, data, path)
    with pytest.raises(abe.AbeError, match="ABE-OUT-OF-BOUNDS"):
        train_advgan(task, x * 3, path)
    assert not path.exists()
    train_advgan(task, [(x[:6], 0), (x[6:], 1)], path, epochs=1)
    with pytest.raises(abe.AbeError, match="ABE-FOREIGN-FILE"):
        train_advgan(task, x, path, epochs=2, eps=0.1)
    pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 3))
    other = abe.image_task(pooled.double(), output_kind="logits")
    with pytest.raises(abe.AbeError, match="ABE-SHAPE"):
        abe.attack(other, images()[..., :28], "advgan", checkpoint=str(path), progress=False)


def test_files_that_are_no_checkpoint(tmp_path):
    missing, broken, other = (tmp_path / n for n in ("no", "broken", "other"))
    broken.write_bytes(b"not tensors")
    save_file({"a": torch.zeros(1)}, other)
    for path, code in ((missing, "CORRUPT"), (broken, "CORRUPT"), (other, "FOREIGN")):
        with pytest.raises(abe.AbeError, match=f"ABE-{code}-FILE"):
            AdvGAN(checkpoint=str(path))
    with pytest.raises(abe.AbeError, match="checkpoint"):
        abe.attack(task_and_data()[0], images(), "advgan")


def test_its_laws(tmp_path):
    from abe.testing.bench import samples, task_of
    from abe.testing.nets import Smooth

    x = samples(4)
    made = train_advgan(task_of(Smooth().eval()), x, tmp_path / "g.safetensors", epochs=1, eps=0.1)
    check_update(made)


def test_the_generator_is_what_its_weights_say() -> None:
    """Files of weights are kept: what is made of them is the same in every version."""
    from torch.nn import functional

    from abe.robustness.advgan import Discriminator, Generator

    def normed(y: torch.Tensor) -> torch.Tensor:
        flat = y.flatten(2)
        centred = flat - flat.mean(2, keepdim=True)
        return (centred / (flat.var(2, correction=0, keepdim=True) + 1e-5).sqrt()).view_as(y)

    def layer(weights: dict[str, torch.Tensor], name: str, y: torch.Tensor, stride: int = 1) -> torch.Tensor:
        return functional.conv2d(y, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding=1)

    def rectified(y: torch.Tensor) -> torch.Tensor:
        return y.clamp_min(0)

    x = torch.rand(2, 3, 8, 12)
    nets = Generator(3), Discriminator(3)
    for one in nets:
        for p in one.parameters():
            torch.nn.init.normal_(p, std=0.3)
    g, d = (dict(one.named_parameters()) for one in nets)
    y = x
    for i, stride in enumerate((1, 2, 2)):
        y = rectified(normed(layer(g, f"down.{i}", y, stride)))
    for i in range(4):
        y = y + normed(layer(g, f"blocks.{i}.1", rectified(normed(layer(g, f"blocks.{i}.0", y)))))
    for i in range(2):
        twice = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        y = rectified(normed(layer(g, f"up.{i}", twice)))
    right = layer(g, "up.2", y).tanh()
    torch.testing.assert_close(nets[0](x), right, rtol=1e-4, atol=1e-4)
    z = x
    for i in range(3):
        z = layer(d, f"layers.{i}", z, 2)
        z = torch.where(z > 0, z, 0.2 * z)
    said = functional.conv2d(z, d["head.weight"], d["head.bias"]).mean((1, 2, 3))
    torch.testing.assert_close(nets[1](x), said, rtol=1e-4, atol=1e-4)
