"""Patterns fitted from a loader, stored, and refused where they do not fit."""

import pytest
import torch
from safetensors.torch import save_file
from tests.engines.backward.test_run import Written, explain, images
from torch import nn
from torch.nn import functional as F

import abe
from abe.engines.backward.patterns import PatternFit, Patterns, fit_patterns
from abe.errors import InputError, ModelError, StorageError


def test_patterns_point_to_the_signal(tmp_path):
    """x = a y + distractor: the weight cancels the distractor, the pattern is a (kindermans2018, Sec. 3)."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.tensor([1.0, 0.0], dtype=torch.float64)
    distractor = torch.tensor([1.0, 1.0], dtype=torch.float64)
    y, noise = torch.randn(2, 4000, generator=generator, dtype=torch.float64)
    x = (y[:, None] * signal + noise[:, None] * distractor).view(-1, 1, 1, 2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 1).double())
    net[1].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    task = abe.image_task(net, channels=1, bounds=None, output_kind="regression")
    patterns = fit_patterns(task, x.split(1000))
    assert torch.allclose(patterns.layers[0][0], signal, atol=0.05)
    once = fit_patterns(task, [(x, "labels")])
    assert torch.allclose(once.layers[0], patterns.layers[0], atol=1e-12)
    file = tmp_path / "patterns.safetensors"
    patterns.save(file)
    found = abe.explain(task, x[:2], "pattern_net", patterns=str(file), progress=False)
    expected = found.score[:, None] * patterns.layers[0]
    assert torch.allclose(found.attribution.flatten(1), expected)
    attributed = abe.explain(task, x[:2], "pattern_attribution", patterns=patterns, progress=False)
    assert torch.allclose(attributed.attribution.flatten(1), expected * net[1].weight.detach())
    assert not any("PATTERNS" in warning for warning in (*found.warnings, *attributed.warnings))


def test_patterns_of_convolutions_by_hand():
    """Moments of patches where z > 0, against an explicit unfolding; a loader that fails keeps its state."""
    net, x = Written(F.relu), images(6)
    fit = PatternFit(abe.image_task(net, output_kind="logits", bounds=None))

    def failing():
        yield from x.split(2)
        raise OSError("the disc is gone")

    with pytest.raises(OSError, match="disc"):
        fit_patterns(fit.task, failing(), fit=fit)
    assert fit.batches == 3
    pattern = fit.patterns().layers[0]
    patches = F.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, 27)
    weight = net.first.detach().flatten(1)
    z = patches @ weight.T + net.bias.detach()
    for k in range(5):
        here = z[:, k] > 0
        covariance = (patches[here] * z[here, k, None]).mean(0) - patches[here].mean(0) * z[here, k].mean()
        expected = covariance / (weight[k] @ covariance)
        assert torch.allclose(pattern[k].flatten(), expected, atol=1e-10)


class Steps(nn.Module):
    """A recurrent layer, unrolled into products for every step, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.states, self.head = nn.RNN(2, 3, nonlinearity="relu", batch_first=True), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.states(x)[0].mean(1))


def test_the_steps_of_a_recurrent_layer_share_their_patterns():
    """However long the series are, each weight has the pattern of all its uses."""
    torch.manual_seed(0)
    net = Steps().double()
    task = abe.series_task(net, "btc", output_kind="logits")
    long, short = torch.randn(8, 5, 2, dtype=torch.float64), torch.randn(8, 3, 2, dtype=torch.float64)
    patterns = fit_patterns(task, [long, short])
    shapes = [tuple(layer.shape) for layer in patterns.layers]
    assert shapes == [
        tuple(p.shape) for p in (net.states.weight_ih_l0, net.states.weight_hh_l0, net.head.weight)
    ]
    x = torch.cat([long.flatten(0, 1), short.flatten(0, 1)])
    w, b = net.states.weight_ih_l0.detach(), net.states.bias_ih_l0.detach()
    z = x @ w.T + b
    for k in range(3):
        here = z[:, k] > 0
        covariance = (x[here] * z[here, k, None]).mean(0) - x[here].mean(0) * z[here, k].mean()
        assert torch.allclose(patterns.layers[0][k], covariance / (w[k] @ covariance), atol=1e-10)
    for given in (long, short):
        found = abe.explain(task, given, "pattern_net", patterns=patterns, progress=False)
        assert bool(found.attribution.abs().sum((1, 2)).gt(0).all())


def test_batches_of_texts_are_read_whole():
    words = ["a", "film", "good", "dull", "not"]
    torch.manual_seed(0)

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, ids):
            return self.head(self.embed(ids).mean(1))

    task = abe.text_task(Bag(), lambda text: [words.index(word) for word in text.split()])
    texts = ["a good film", "not a film", "dull film not good"]
    wanted = fit_patterns(task, [[text] for text in texts]).layers[0]
    for batches in ([texts], [(texts, [0, 1, 1])], [{"inputs": texts}]):
        assert torch.allclose(fit_patterns(task, batches).layers[0], wanted, atol=1e-6)


def test_the_model_is_left_as_found_when_a_batch_is_bad():
    net = Written(F.relu).train()
    fit = PatternFit(abe.image_task(net, output_kind="logits", bounds=(0, 1)))
    with pytest.raises(InputError):
        fit.add(images() * 3)
    fit.add(images())
    assert net.training
    assert net.first.requires_grad
    assert fit.batches == 1


def test_without_patterns_noise_stands_in_and_it_is_said():
    found = explain(Written(F.relu), images(), "pattern_attribution", samples=4)
    assert any("ABE-PATTERNS" in warning for warning in found.warnings)
    assert found.cost.forward_rows == 4 + 3 + 1  # noise, samples, and one row compared with the plain forward


def test_patterns_are_refused_where_they_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="at least one batch"):
        fit_patterns(abe.image_task(Written(F.relu), bounds=None), [])
    other = Patterns((torch.ones(2, 2),))
    with pytest.raises(ModelError, match="another model"):
        explain(Written(F.relu), images(), "pattern_net", patterns=other)
    (tmp_path / "broken").write_bytes(b"no")
    save_file({"weight": torch.ones(2)}, tmp_path / "foreign")
    for name, code in (("broken", "CORRUPT"), ("missing", "CORRUPT"), ("foreign", "FOREIGN")):
        with pytest.raises(StorageError, match=code):
            explain(Written(F.relu), images(), "pattern_net", patterns=str(tmp_path / name))
    with pytest.raises(StorageError, match="NOT-WRITTEN"):
        other.save(tmp_path / "no" / "folder")
