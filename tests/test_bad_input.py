"""What is refused or noted, with which code and words, and that nothing is lost or changed by it."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import config
from PIL import Image
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code, InputError, ModelError, SpecError, TargetError
from abe.testing.snapshot import Snapshot

LABELS = ["tench", "goldfish", "great white shark", "tiger shark"]


class Net(nn.Module):
    """Everything with a state of its own: batch norm, dropout, buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


class Doing(nn.Module):
    """A linear model with something done to its scores."""

    def __init__(self, change) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4)
        self.change = change

    def forward(self, x: Tensor):
        return self.change(self.linear(x.flatten(1)))


@pytest.fixture(autouse=True)
def _no_checks_of_types() -> Iterator[None]:
    """Users have no run-time type checker, so the errors must be ABE's own."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def net() -> Net:
    made = Net().eval()
    with torch.no_grad():
        made.body[1].running_mean.uniform_(-0.2, 0.2)
        made.body[1].running_var.uniform_(0.5, 1.5)
    made.head.weight.grad = torch.ones_like(made.head.weight)
    made.head.bias.requires_grad_(False)
    return made


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 6, 6)


@contextmanager
def refused(kind: type[AbeError], code: Code, *says: str, model: nn.Module | None = None) -> Iterator[None]:
    """The block raises exactly this, the message says these things, and the model is as before."""
    before = None if model is None else Snapshot(model)
    with pytest.raises(AbeError) as caught:
        yield
    error = caught.value
    message = str(error)
    assert type(error) is kind, message
    assert error.code is code, message
    assert message.endswith(f"[{code.value}]")
    for text in says:
        assert text in message, message
    assert before is None or before.changes() == []


def explain(task, raw, method="ig", **how):
    how.setdefault("progress", False)
    if method == "ig":
        how.setdefault("steps", 4)
    return abe.explain(task, raw, method, **how)


# -- the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [["", "body", "head"], ["body.1"], ["body.3"]])
def test_training_mode_is_set_aside_restored_and_noted(net, x, training):
    right = explain(abe.image_task(net), x)
    assert right.warnings == []
    for name in training:
        net.get_submodule(name).training = True
    before = Snapshot(net)
    found = explain(abe.image_task(net), x)
    assert before.changes() == []
    assert torch.equal(found.attribution, right.attribution)
    (note,) = found.warnings
    assert "training mode" in note
    assert note.endswith("[ABE-TRAINING-MODE]")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite(net, x, bad):
    with torch.no_grad():
        net.head.weight[0, 0] = bad
    task = abe.image_task(net)
    with refused(ModelError, Code.NOT_FINITE_WEIGHTS, "'head.weight'", "checkpoint"):
        explain(task, x)
    assert not net.training
    assert not net.head.bias.requires_grad


def test_buffers_that_are_not_finite(net, x):
    net.body[1].running_mean[1] = math.nan
    with refused(ModelError, Code.NOT_FINITE_WEIGHTS, "running_mean"):  # the place is named
        explain(abe.image_task(net), x)


def test_infinite_sum_of_finite_weights_is_fine():
    model = Doing(lambda y: y)
    with torch.no_grad():
        model.linear.bias.fill_(torch.finfo(torch.float32).max / 2)
    found = explain(abe.image_task(model), torch.rand(1, 3, 2, 2), "gradient")
    torch.testing.assert_close(found.attribution.flatten(), model.linear.weight[found.target[0]].detach())


class Root(nn.Module):
    """Its gradient is infinite at zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.flatten(1).sqrt().sum(1), x.flatten(1).sum(1)], dim=1)


@pytest.mark.parametrize("method", ["gradient", "gxi", "ig", "gig"])
def test_gradient_that_is_not_finite(method):
    dark = torch.rand(2, 3, 4, 4)
    dark[1, 0, 0, 0] = 0.0
    how = {"quadrature": "trapezoid"} if method == "ig" else {}
    with refused(ModelError, Code.NOT_FINITE_GRADIENT, "sqrt", "small constant", model=(model := Root())):
        explain(abe.image_task(model), dark, method, target=0, **how)


def test_output_that_is_not_finite():
    model, x = Doing(lambda y: (y - 1e4).log()), torch.rand(2, 3, 2, 2)
    with refused(ModelError, Code.NOT_FINITE_OUTPUT, "2 of 2", model=model):
        explain(abe.image_task(model), x)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.detach(),
        lambda y: torch.from_numpy(y.detach().numpy()),
        lambda y: nn.functional.one_hot(y.argmax(1), 4).float(),
        lambda y: nn.functional.one_hot(y.argmax(1), 4),
        lambda y: y > 0,
        lambda y: torch.ones(len(y), 4),
    ],
    ids=["detach", "numpy", "argmax", "integers", "booleans", "constant"],
)
def test_nothing_differentiable(change):
    model, x = Doing(change), torch.rand(2, 3, 2, 2)
    with refused(ModelError, Code.NOT_DIFFERENTIABLE, "argmax", "removal methods", model=model):
        explain(abe.image_task(model), x)


class Deaf(nn.Module):
    """Returns its parameters, whatever comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores.expand(len(x), 2)


def test_output_that_does_not_depend_on_the_input(x):
    model = Deaf()
    with refused(ModelError, Code.NOT_DIFFERENTIABLE, "does not depend on the input", model=model):
        explain(abe.image_task(model), x)


def test_function_instead_of_a_module(x):
    with refused(ModelError, Code.NOT_A_MODULE, "function", "nn.Module"):
        abe.image_task(lambda x: x)
    with refused(ModelError, Code.NOT_A_MODULE, "the class Net", "Net()"):
        abe.image_task(Net)


def test_inference_mode(net, x):
    task = abe.image_task(net)
    right = explain(task, x)
    with torch.inference_mode(), refused(ModelError, Code.INFERENCE_MODE, "outside", model=net):
        explain(task, x)
    with torch.inference_mode():
        frozen = x + 0.0
        other = Net().eval()
    assert torch.equal(explain(task, frozen).attribution, right.attribution)
    assert torch.equal(
        explain(task, frozen, "gradient").attribution, explain(task, x, "gradient").attribution
    )
    with refused(ModelError, Code.INFERENCE_MODE, "'body.0.weight'", "deepcopy"):
        explain(abe.image_task(other), x)


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_grad_mode_of_the_user_does_not_matter(net, x, context):
    task = abe.image_task(net)
    right = explain(task, x)
    with context():
        found = explain(task, x)
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert torch.equal(found.attribution, right.attribution)
    assert not found.attribution.requires_grad


def test_input_that_requires_a_gradient_is_left_alone(net, x):
    right = explain(abe.image_task(net), x)
    leaf = x.clone().requires_grad_(True)
    found = explain(abe.image_task(net), leaf * 1.0)
    again = explain(abe.image_task(net), leaf)
    assert leaf.grad is None
    assert torch.equal(found.attribution, right.attribution)
    assert torch.equal(again.attribution, right.attribution)
    assert not again.x.requires_grad


def test_autocast_of_the_user(net, x):
    task = abe.image_task(net)
    right = explain(task, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = explain(task, x)
    assert found.attribution.dtype == torch.float32
    assert found.score.dtype == torch.float32
    torch.testing.assert_close(
        found.attribution, right.attribution, rtol=0, atol=float(right.attribution.abs().max()) / 20
    )


def test_compiled_module(net, x):
    right = explain(abe.image_task(net), x)
    compiled = torch.compile(net, backend="eager")
    before = Snapshot(net)
    found = explain(abe.image_task(compiled), x)
    assert before.changes() == []
    assert torch.equal(found.attribution, right.attribution)
    (note,) = found.warnings
    assert "compiled" in note
    assert note.endswith("[ABE-COMPILED-MODEL]")


def test_module_compiled_in_place(net, x):
    right = explain(abe.image_task(net), x)
    net.body[0].compile(backend="eager")
    found = explain(abe.image_task(net), x)
    assert torch.equal(found.attribution, right.attribution)
    assert [note[-20:] for note in found.warnings] == ["[ABE-COMPILED-MODEL]"]


def _scripted(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(net, torch.rand(1, 3, 6, 6))


def test_scripted_module(net, x):
    """Gradients need no look inside; layers do."""
    right = explain(abe.image_task(net), x)
    scripted = _scripted(net)
    found = explain(abe.image_task(scripted, channels=3), x)
    torch.testing.assert_close(found.attribution, right.attribution)
    with refused(ModelError, Code.OPAQUE_MODEL, "script"):
        explain(abe.image_task(scripted, channels=3), x, objective=("unit", {"layer": "head", "index": 0}))


class Fails(nn.Module):
    """Raises in the given call."""

    def __init__(self, net: nn.Module, call: int) -> None:
        super().__init__()
        self.net = net
        self.calls_left = call

    def forward(self, x: Tensor) -> Tensor:
        self.calls_left -= 1
        if self.calls_left < 0:
            np.random.rand()  # noqa: NPY002 - a model may draw
            torch.rand(1)
            self.net.body[1].running_mean.add_(1.0)
            raise KeyError("no such thing")
        return self.net(x)


@pytest.mark.parametrize("call", [0, 1, 3])
@pytest.mark.parametrize("method", ["ig", "gig", "smoothgrad", "eg", "path_integral"])
def test_forward_that_raises(net, x, call, method):
    net.train()
    model = Fails(net, call)
    params = {"path": ("blur", {"max_sigma": 2.0})} if method == "path_integral" else {}
    with refused(ModelError, Code.MODEL_FAILED, "KeyError: 'no such thing'", "model(x)", model=net):
        explain(abe.image_task(model), x, method, chunk=1, **params)


def test_cause_of_a_failing_forward_is_kept(net, x):
    with pytest.raises(ModelError) as caught:
        explain(abe.image_task(Fails(net, 0)), x)
    assert isinstance(caught.value.__cause__, KeyError)


def test_input_the_model_cannot_take(net):
    x = torch.rand(1, 5, 6, 6)
    with refused(ModelError, Code.MODEL_FAILED, "RuntimeError", "channels", model=net):
        explain(abe.image_task(net, bounds=None), x)


@pytest.mark.parametrize(
    ("change", "shape"),
    [(lambda y: y.mean(0, keepdim=True), "(1, 4)"), (lambda y: y.mean(0), "(4,)"), (lambda y: y.sum(), "()")],
)
def test_output_without_a_row_per_input(change, shape):
    model, x = Doing(change), torch.rand(2, 3, 2, 2)
    x = torch.rand(3, 3, 2, 2)
    with refused(ModelError, Code.OUTPUT_SHAPE, shape, "3 inputs", model=model):
        explain(abe.image_task(model), x)


@pytest.mark.parametrize("found", ["text", None, 3.0, {}, [], {"a": 1}], ids=repr)
def test_output_that_is_no_tensor(found):
    model, x = Doing(lambda y: found), torch.rand(2, 3, 2, 2)
    with refused(ModelError, Code.OUTPUT_TYPE, "output=", type(found).__name__, model=model):
        explain(abe.image_task(model), x)


def test_rows_that_influence_each_other_are_noted(x):
    model = nn.Sequential(
        nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(108, 4)
    ).eval()
    found = explain(abe.image_task(model), x)
    # such a norm ignores the length of its input, so a few nodes from zero miss all that happens there
    (note,) = [one for one in found.warnings if one.endswith("[ABE-COUPLED-ROWS]")]
    assert "'0'" in note


def test_layer_that_does_not_exist(net, x):
    with refused(ModelError, Code.LAYER, "'haed'", "'head'", model=net):
        explain(abe.image_task(net), x, objective=("unit", {"layer": "haed", "index": 0}))
    with refused(SpecError, Code.BAD_PARAMETER, "no unit 4", "0 to 3", model=net):
        explain(abe.image_task(net), x, objective=("unit", {"layer": "head", "index": 4}))


# -- the input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_input_that_is_not_finite(net, x, bad):
    x[1, 0, 2, 3] = bad
    kept = x.clone()
    with refused(InputError, Code.NOT_FINITE_INPUT, "sample 1", "missing values", model=net):
        explain(abe.image_task(net), x)
    assert torch.equal(x.nan_to_num(), kept.nan_to_num())


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float64, "float32"), (torch.float16, "float32")])
def test_wrong_floating_point_type(net, x, dtype, expected):
    with refused(InputError, Code.DTYPE, str(dtype), expected, "x.to(torch.float32)", model=net):
        explain(abe.image_task(net), x.to(dtype))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.complex64])
def test_type_that_is_not_floating_point(net, x, dtype):
    with refused(InputError, Code.DTYPE, str(dtype), "x.float() / 255", model=net):
        explain(abe.image_task(net), x.to(dtype))


def test_wrong_device(net, x):
    with refused(InputError, Code.DEVICE, "meta", "cpu", "x.to('cpu')", model=net):
        explain(abe.image_task(net), x.to("meta"))


def test_model_without_storage(x):
    with torch.device("meta"):
        model = Net().eval()
    with refused(ModelError, Code.DEVICE, "meta", "weights"):
        explain(abe.image_task(model), x)


def test_input_outside_the_bounds(net, x):
    task = abe.image_task(net)
    with refused(InputError, Code.OUT_OF_BOUNDS, "0 to 1", "mean= and std=", model=net):
        explain(task, x * 255)
    with refused(InputError, Code.OUT_OF_BOUNDS, f"values from {float(x.min() - 0.5):.4g} to", model=net):
        explain(task, x - 0.5)
    explain(abe.image_task(net, bounds=None), x * 255)
    rounded = x.clone()
    rounded[0, 0, 0, 0] = 1 + 5e-7
    explain(task, rounded)


def test_input_outside_the_bounds_of_one_channel(net, x):
    task = abe.image_task(net, bounds=((0, 0, 0), (1, 0.5, 1)))
    x[:, 1] *= 0.5
    explain(task, x)
    x[1, 1, 0, 0] = 0.6
    with refused(InputError, Code.OUT_OF_BOUNDS, "channel 1", "0.6", "0 to 0.5", model=net):
        explain(task, x)


@pytest.mark.parametrize("raw", [torch.empty(0, 3, 6, 6), [], (), np.empty((0, 6, 6, 3), np.uint8)], ids=str)
def test_empty_batch(net, raw):
    with refused(InputError, Code.EMPTY_BATCH, "nothing to explain", "at least one", model=net):
        explain(abe.image_task(net), raw)


@pytest.mark.parametrize("shape", [(6, 6), (3,), (1, 1, 3, 6, 6), ()])
def test_tensor_that_is_no_image(net, shape):
    x = torch.rand(shape)
    with refused(InputError, Code.SHAPE, str(shape), "(b, c, h, w)", model=net):
        explain(abe.image_task(net), x)


def test_photographs_of_different_sizes(net):
    images = [np.zeros((6, 6, 3), np.uint8), np.zeros((6, 8, 3), np.uint8)]
    with refused(InputError, Code.SHAPE, "size=(height, width)", model=net):
        explain(abe.image_task(net), images)
    assert len(explain(abe.image_task(net, size=6), images)) == 2


@pytest.mark.parametrize("junk", [None, 3, object(), {"a": 3}.keys()], ids=lambda junk: type(junk).__name__)
def test_something_that_is_no_photograph(net, junk):
    with refused(InputError, Code.UNREADABLE_IMAGE, type(junk).__name__, "a path", model=net):
        explain(abe.image_task(net), [junk])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Things that have the name of an image."""
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (60, 60), "red").save(tmp_path / "good.png")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    for kind in ("png", "jpg"):
        Image.fromarray(noise).save(tmp_path / f"whole.{kind}")
        content = (tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(content[: len(content) // 2])
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "pickle.png").write_bytes(b"\x80\x04N.")
    return {path.name: path for path in tmp_path.iterdir()} | {"missing.png": tmp_path / "missing.png"}


@pytest.mark.parametrize(
    "name", ["text.png", "empty.jpg", "cut.png", "cut.jpg", "folder.png", "pickle.png", "missing.png"]
)
@pytest.mark.parametrize("kind", [str, Path])
def test_unreadable_image(net, files, name, kind):
    with refused(InputError, Code.UNREADABLE_IMAGE, name, model=net):
        explain(abe.image_task(net), [files["good.png"], kind(files[name])])


# -- the decision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [4, -1, 10**9, [0, 4], torch.tensor([0, 7])], ids=str)
def test_target_out_of_range(net, x, target):
    with refused(TargetError, Code.TARGET_RANGE, "0 to 3", model=net):
        explain(abe.image_task(net), x, target=target)


@pytest.mark.parametrize(
    "target",
    [1.0, True, 1j, torch.tensor([0.0, 1.0]), [0.5, 1], {"a": 1}, object()],
    ids=lambda target: type(target).__name__,
)
def test_target_of_the_wrong_type(net, x, target):
    with refused(TargetError, Code.TARGET_TYPE, "class number or name", model=net):
        explain(abe.image_task(net), x, target=target)


def test_one_target_for_three_samples_too_few(net, x):
    with refused(TargetError, Code.TARGET_TYPE, "3 targets for 2 samples", model=net):
        explain(abe.image_task(net), x, target=[0, 1, 2])


def test_target_by_name(net, x):
    task = abe.image_task(net, labels=LABELS)
    assert explain(task, x, target="Goldfish").target.tolist() == [1, 1]
    assert explain(task, x, target=["tench", "tiger shark"]).target_names == ["tench", "tiger shark"]
    with refused(TargetError, Code.TARGET_RANGE, "'goldfsh'", "Did you mean 'goldfish'?", model=net):
        explain(task, x, target="goldfsh")
    with refused(TargetError, Code.TARGET_TYPE, "labels=", model=net):
        explain(abe.image_task(net), x, target="goldfish")


def test_regression_needs_a_target(net, x):
    task = abe.image_task(net, output_kind="regression")
    with refused(TargetError, Code.TARGET_MISSING, "regression", "(2, 4)", "target=", model=net):
        explain(task, x)
    assert explain(task, x, target=2).target.tolist() == [2, 2]
    with refused(SpecError, Code.UNSUPPORTED, "regression", "logit", model=net):
        explain(task, x, target=2, objective="probability")


def test_output_with_more_axes_needs_a_target_with_more_numbers():
    model = Doing(lambda y: y.unflatten(1, (2, 2)))
    x = torch.rand(2, 3, 2, 2)
    task = abe.image_task(model)
    with refused(TargetError, Code.TARGET_MISSING, "(2, 2, 2)", "one number per axis", model=model):
        explain(task, x)
    with refused(TargetError, Code.TARGET_TYPE, "1 numbers per sample", "(2, 2)", model=model):
        explain(task, x, target=1)
    with refused(TargetError, Code.TARGET_RANGE, "0 to 1", model=model):
        explain(task, x, target=[[0, 1], [0, 2]])
    found = explain(task, x, "gradient", target=[[0, 1], [1, 0]])
    torch.testing.assert_close(found.attribution.flatten(1), model.linear.weight[[1, 2]].detach())


def test_ids_one_per_sample(net, x):
    with refused(InputError, Code.IDS, "3 ids", "2", model=net):
        explain(abe.image_task(net), x, ids=[1, 2, 3])


# -- the specification -------------------------------------------------------------------------------------

UNKNOWN = [
    ({"method": "integrated_gradient"}, Code.UNKNOWN_NAME, "Did you mean 'integrated_gradients'?"),
    ({"method": "smoothgard"}, Code.UNKNOWN_NAME, "Did you mean 'smoothgrad'?"),
    ({"method": "qqqq"}, Code.UNKNOWN_NAME, "Known: gradient"),
    ({"method": 3}, Code.UNKNOWN_NAME, "abe.method(...)"),
    ({"stesp": 3}, Code.UNKNOWN_PARAMETER, "Did you mean 'steps'?"),
    ({"samples": 3}, Code.UNKNOWN_PARAMETER, "one of baseline, quadrature"),
    ({"objective": "logits"}, Code.UNKNOWN_NAME, "Did you mean 'logit'?"),
    ({"objective": 3}, Code.UNKNOWN_NAME, "a function (outputs, target)"),
    ({"baseline": "zeros"}, Code.UNKNOWN_NAME, "Did you mean 'zero'?"),
    ({"baseline": ("blur", {"sgima": 1.0})}, Code.UNKNOWN_PARAMETER, "Did you mean 'sigma'?"),
    ({"baseline": [1, 2]}, Code.UNKNOWN_NAME, "not a baseline"),
    ({"quadrature": "gauss-legendr"}, Code.UNKNOWN_NAME, "Did you mean 'gauss_legendre'?"),
    ({"steps": 0}, Code.BAD_PARAMETER, "positive integer"),
    ({"steps": 2.5}, Code.BAD_PARAMETER, "2.5"),
    ({"steps": "20"}, Code.BAD_PARAMETER, "'20'"),
    ({"steps": 4, "quadrature": "simpson"}, Code.BAD_PARAMETER, "odd"),
    ({"steps": 1, "quadrature": "trapezoid"}, Code.BAD_PARAMETER, "2 or more"),
    ({"tolerance": 0}, Code.BAD_PARAMETER, "0.02"),
    ({"tolerance": -0.1}, Code.BAD_PARAMETER, "-0.1"),
    ({"variant": "original"}, Code.BAD_PARAMETER, "corrected or published"),
    ({"chunk": 0}, Code.BAD_PARAMETER, "at least 1"),
    ({"execution": "fast"}, Code.BAD_PARAMETER, "auto"),
]


@pytest.mark.parametrize(("how", "code", "says"), UNKNOWN, ids=[str(u[0]) for u in UNKNOWN])
def test_unknown_names_and_bad_parameters(net, x, how, code, says):
    with refused(SpecError, code, says, model=net):
        abe.explain(abe.image_task(net), x, progress=False, **how)


def test_parameters_beside_a_finished_method(net, x):
    with refused(SpecError, Code.UNKNOWN_PARAMETER, "abe.method(", model=net):
        explain(abe.image_task(net), x, abe.method("ig"), steps=3)


@pytest.mark.parametrize(
    ("baseline", "code", "says"),
    [
        (torch.zeros(1, 3, 5, 5), Code.BASELINE_SHAPE, "(3, 6, 6)"),
        (torch.zeros(3, 3, 6, 6), Code.BASELINE_SHAPE, "3 for 2 samples"),
        (torch.zeros(2, 4, 6, 6), Code.BASELINE_SHAPE, "(3, 6, 6)"),
        (torch.zeros(1, 3, 6, 6, dtype=torch.uint8), Code.BASELINE_SHAPE, "uint8"),
        (torch.full((1, 3, 6, 6), math.nan), Code.BASELINE_SHAPE, "finite"),
        (("constant", {"value": (0.1, 0.2)}), Code.BASELINE_SHAPE, "2 values"),
        (math.nan, Code.NOT_FINITE_INPUT, "baseline"),
    ],
    ids=["space", "samples", "channels", "bytes", "nan", "values", "nan number"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["ig", "gig"])
def test_baseline_that_does_not_fit(net, x, baseline, code, says, method):
    with refused(InputError, code, says, model=net):
        explain(abe.image_task(net), x, method, baseline=baseline)


def test_baseline_that_needs_bounds(net, x):
    with refused(SpecError, Code.UNSUPPORTED, "bounds=(low, high)", model=net):
        explain(abe.image_task(net, bounds=None), x, baseline="uniform")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (lambda x, alpha: x[:1], "one point per row"),
        (lambda x, alpha: "there", "str"),
        (lambda x, alpha: x * math.nan, "NaN"),
        (lambda x, alpha: x * 0.5 + alpha.view(-1, 1, 1, 1) * 0, "end at the input"),
        (lambda x: x, "TypeError"),
        (lambda x, alpha: x * alpha, "RuntimeError"),
        (torch.zeros(5, 3, 6, 6), "end at the input"),
        (torch.zeros(5, 3, 5, 5), "(k, 3, 6, 6)"),
    ],
    ids=["rows", "type", "nan", "end", "arguments", "raises", "points", "shape"],
)  # fmt: skip
def test_path_that_is_none(net, x, path, says):
    with refused(SpecError, Code.PATH, says, model=net):
        explain(abe.image_task(net), x, "path_integral", path=path)


@pytest.mark.parametrize(
    ("update", "says"),
    [
        (lambda point: point.x[:1], "every row"),
        (lambda point: point.gradient * math.nan, "NaN"),
        (lambda point: point.x + 2.0, "point.clip"),
        (lambda point: 1 / 0, "ZeroDivisionError"),
        (lambda: None, "TypeError"),
        (lambda point: "there", "str"),
    ],
    ids=["rows", "nan", "bounds", "raises", "arguments", "type"],
)
def test_update_that_is_none(net, x, update, says):
    with refused(SpecError, Code.UPDATE, says, model=net):
        explain(abe.image_task(net), x, "path_attribution", update=update)


def test_update_by_a_wrong_name(net, x):
    with refused(SpecError, Code.UNKNOWN_NAME, "Did you mean 'descent'?", model=net):
        explain(abe.image_task(net), x, "path_attribution", update="decent")
    with refused(SpecError, Code.BAD_PARAMETER, "update=", model=net):
        explain(abe.image_task(net), x, "path_attribution")


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        (lambda out, target: out.mean(), "()"),
        (lambda out, target: out, "(2, 4)"),
        (lambda out, target: 1.0, "float"),
    ],
    ids=["mean", "all", "number"],
)
def test_objective_that_is_no_score_per_row(net, x, objective, says):
    with refused(InputError, Code.OUTPUT_SHAPE, says, "never over the batch", model=net):
        explain(abe.image_task(net), x, objective=objective)


def test_objective_that_raises(net, x):
    def broken(outputs, target):
        return outputs["scores"]

    with refused(SpecError, Code.OBJECTIVE, "broken", "IndexError", model=net):
        explain(abe.image_task(net), x, objective=broken)


# -- nothing to explain ------------------------------------------------------------------------------------


def test_constant_output():
    model = Doing(lambda y: y * 0 + torch.tensor([1.0, 2.0, 3.0, 4.0])).eval()
    found = explain(abe.image_task(model), torch.rand(2, 3, 2, 2))
    assert (found.attribution == 0).all()
    assert found.target.tolist() == [3, 3]
    assert found.delta.tolist() == [0.0, 0.0]
    assert found.residual.tolist() == [0.0, 0.0]
    (note,) = found.warnings
    assert note.endswith("[ABE-ZERO-MAP]")
    assert "sample 0, 1" in note


def test_zero_map_names_the_samples(net):
    raw = torch.rand(3, 3, 6, 6)
    raw[1] = 0
    found = explain(abe.image_task(net), raw)
    (note,) = found.warnings
    assert "sample 1 " in note
    assert found.residual[1] == 0
    assert (found.attribution[1] == 0).all()


def test_update_that_never_moves(net, x):
    found = explain(abe.image_task(net), x, "path_attribution", update=lambda point: point.x, steps=2)
    assert [note.split("[")[-1] for note in found.warnings] == ["ABE-NO-CHANGE]", "ABE-ZERO-MAP]"]
    assert (found.attribution == 0).all()
