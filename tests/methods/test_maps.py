"""Class activation maps: recorded maps, slow paper forms, equivalences and known answers."""

import pytest
import torch
import torch.nn.functional as F
from tests.methods.common import FLOAT32, FLOAT64, miss, net, oracle, run
from torch import Tensor, nn

import abe
from abe.engines.cam.channel_map import ChannelMap, View
from abe.registry import channel_weights
from abe.spec import from_spec, to_spec
from abe.task.base import Context, Lifted, Task
from abe.testing import check_method, nets, samples, task_of

LAYER = "4"
"""The ReLU after the last convolution, where the recorded maps were taken."""
RECORDED = {
    "gradcam_gradcam": ("grad_cam", {}),
    "gradcam_gradcamplusplus": ("grad_cam_plus_plus", {"variant": "published"}),
    "gradcam_hirescam": ("hires_cam", {}),
    "gradcam_xgradcam": ("xgrad_cam", {"variant": "published"}),
    "gradcam_layercam": ("layer_cam", {}),
    "gradcam_scorecam": ("score_cam", {"variant": "published"}),
}


def places(found: abe.Explanation) -> Tensor:
    """(b, h, w) the map, which is shared out over the channels."""
    return found.attribution.sum(1)


def enlarged(raw: Tensor, side: int = 32, mode: str = "bilinear") -> Tensor:
    corners = None if mode == "nearest" else False
    return F.interpolate(raw[:, None], (side, side), mode=mode, align_corners=corners)[:, 0]


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_maps(name: str) -> None:
    """At the layer's size in float64; enlarged and scaled to [0, 1] in float32, as it was recorded."""
    case = oracle(name)
    method, params = RECORDED[name]
    plain = run(case, method, layer=LAYER, relu=False, **params)
    assert miss(places(plain), enlarged(case["raw"])) < FLOAT64
    scaled = run(case, method, layer=LAYER, normalise=True, **params)
    assert float((places(scaled) - case["out"]).abs().max()) < FLOAT32
    found = run(case, method, **params)
    assert torch.equal(found.attribution, run(case, method, layer=LAYER, **params).attribution)
    assert any(f"layer '{LAYER}'" in text for text in found.warnings)


def test_the_recorded_eigen_map_up_to_its_arbitrary_sign() -> None:
    case = oracle("gradcam_eigencam")
    ours = places(run(case, "eigen_cam", layer=LAYER, relu=False, variant="published"))
    theirs = enlarged(case["raw"].double())
    side = (ours * theirs).flatten(1).sum(1).sign()[:, None, None]
    assert miss(ours, side * theirs) < FLOAT32


@pytest.mark.parametrize(("name", "layer"), [("captum_gradcam_conv", "3"), ("captum_gradcam_relu", "4")])
def test_recorded_grad_cam_of_captum(name: str, layer: str) -> None:
    case = oracle(name)
    found = run(case, "grad_cam", layer=layer)
    assert miss(places(found), case["out"][:, 0]) < FLOAT64
    assert miss(places(run(case, "grad_cam", layer=layer, relu=False)), enlarged(case["raw"][:, 0])) < FLOAT64
    b = len(case["x"])
    assert (found.cost.forward_rows, found.cost.backward_rows) == (b, b)


@pytest.mark.parametrize(
    ("name", "upsample"), [("captum_guidedgradcam", "nearest"), ("captum_guidedgradcam_bilinear", "bilinear")]
)
def test_recorded_guided_grad_cam(name: str, upsample: str) -> None:
    case = oracle(name)
    found = run(case, "guided_grad_cam", layer="3", upsample=upsample)
    assert miss(found.attribution, case["out"]) < FLOAT64


# --- paper forms --------------------------------------------------------------------------------------


def by_hand(model: nn.Sequential, x: Tensor, target: int, cut: int = 5) -> tuple[Tensor, Tensor, float]:
    """One sample's activation and gradient at the layer, by a forward in two halves."""
    activation = model[:cut](x[None]).detach().requires_grad_()
    score = model[cut:](activation)[0, target]
    (gradient,) = torch.autograd.grad(score, activation)
    return activation[0].detach(), gradient[0], float(score.detach())


def paper_form(name: str, a: Tensor, g: Tensor) -> Tensor:
    """Loops as the papers print their sums."""
    k, h, w = a.shape
    out = torch.zeros(h, w, dtype=a.dtype)
    for c in range(k):
        if name == "grad_cam":
            out += g[c].mean() * a[c]
        elif name == "cam":
            out += g[c].sum() * a[c]
        elif name == "hires_cam":
            out += g[c] * a[c]
        elif name == "layer_cam":
            out += g[c].clamp(min=0) * a[c]
        elif name == "xgrad_cam":
            total = a[c].sum()
            out += (
                sum(a[c, i, j] * g[c, i, j] for i in range(h) for j in range(w)) / total if total else 0
            ) * a[c]
        else:
            weight = torch.zeros((), dtype=a.dtype)
            for i in range(h):
                for j in range(w):
                    below = 2 * g[c, i, j] ** 2 + a[c].sum() * g[c, i, j] ** 3
                    if g[c, i, j] > 0 and below != 0:
                        weight += g[c, i, j] ** 2 / below * g[c, i, j]
            out += weight * a[c]
    return out


@pytest.mark.parametrize("name", ["grad_cam", "hires_cam", "layer_cam", "xgrad_cam", "grad_cam_plus_plus"])
def test_paper_forms(name: str) -> None:
    case = oracle("gradcam_gradcam")
    model = net("s")
    right = [
        paper_form(name, *by_hand(model, x, int(t))[:2])
        for x, t in zip(case["x"], case["target"], strict=True)
    ]
    found = run(case, name, layer=LAYER, relu=False)
    assert miss(places(found), enlarged(torch.stack(right))) < FLOAT64


def test_eigen_cam_is_the_uncentred_principal_direction() -> None:
    case = oracle("gradcam_gradcam")
    found = places(run(case, "eigen_cam", layer=LAYER, relu=False))
    for x, ours in zip(case["x"], found, strict=True):
        rows = net("s")[:5](x[None])[0].detach().flatten(1).T
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        right = (rows @ vectors[:, values.argmax()]).view(16, 16)
        right = right * right.sum().sign()
        assert miss(ours[None], enlarged(right[None])) < 1e-8
        assert float(right.min()) >= -1e-9  # a positive matrix has a positive first direction


def test_score_cam_and_ablation_cam_channel_by_channel() -> None:
    case = oracle("gradcam_gradcam")
    model, fill = net("s"), 0.3
    scores, ablated = [], []
    for x, target in zip(case["x"], case["target"].tolist(), strict=True):
        a, _, s = by_hand(model, x, target)
        shown, without = [], []
        for k in range(len(a)):
            mask = enlarged(a[k][None])[0]
            span = mask.max() - mask.min()
            mask = (mask - mask.min()) / span if span > 0 else torch.zeros_like(mask)
            shown.append(model((fill + mask * (x - fill))[None])[0, target].detach())
            left = a.clone()
            left[k] = 0
            without.append(s - model[5:](left[None])[0, target].detach())
        scores.append((torch.stack(shown).softmax(0)[:, None, None] * a).sum(0))
        ablated.append((torch.stack(without)[:, None, None] * a).sum(0))
    found = run(case, "score_cam", layer=LAYER, relu=False, baseline=("constant", {"value": fill}))
    assert miss(places(found), enlarged(torch.stack(scores))) < FLOAT64
    assert found.cost.forward_rows == 2 + 2 * 16
    found = run(case, "ablation_cam", layer=LAYER, relu=False)
    assert miss(places(found), enlarged(torch.stack(ablated))) < FLOAT64
    assert found.cost.backward_rows == 0


# --- equivalences and known answers -------------------------------------------------------------------


def explain(model: nn.Module, x: Tensor, method: str, **how: object) -> abe.Explanation:
    return abe.explain(task_of(model), x, method, target=1, execution="model", progress=False, **how)


def test_what_is_equal_behind_average_pooling_and_a_linear_head() -> None:
    """The gradient is the head's weight over the number of places, so all gradient forms are one."""
    model, x = nets.Convolutional(dtype=torch.float64, side=1), samples(3)
    maps = {
        name: places(explain(model, x, name, layer="features.3", relu=False))
        for name in ("cam", "grad_cam", "hires_cam", "xgrad_cam")
    }
    for name in ("grad_cam", "hires_cam", "xgrad_cam"):
        assert miss(36 * maps[name], maps["cam"]) < 1e-12
    activation = model.eval().features[:4](x).detach()
    right = (model.head.weight[1].detach()[:, None, None] * activation).sum(1)
    assert miss(maps["cam"], right) < 1e-12
    means = activation.mean((2, 3))
    ablated = places(explain(model, x, "ablation_cam", layer="features.3", relu=False))
    weights = model.head.weight[1].detach() * means
    assert miss(ablated, (weights[:, :, None, None] * activation).sum(1)) < 1e-10


def test_cam_averages_to_the_score_less_its_bias() -> None:
    model, x = nets.Convolutional(dtype=torch.float64, side=1), samples(3)
    found = explain(model, x, "cam", relu=False)
    right = found.score - model.head.bias[1].detach()
    torch.testing.assert_close(places(found).mean((1, 2)), right, rtol=1e-12, atol=1e-12)


def test_hires_cam_sums_to_the_score_where_only_linear_operations_follow() -> None:
    """Max-pooling is linear around the input; each of 16 × 16 places becomes four."""
    case = oracle("gradcam_gradcam")
    found = run(case, "hires_cam", layer=LAYER, relu=False, upsample="nearest")
    bias = net("s")[7].bias.detach()[case["target"]]
    torch.testing.assert_close(places(found).sum((1, 2)) / 4, found.score - bias, rtol=1e-10, atol=1e-10)


def test_positive_gradients_only_tell_layer_cam_from_hires_cam() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1, bias=False)
            self.layer.weight = nn.Parameter(
                torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).double()[:, :, None, None]
            )

        def forward(self, x: Tensor) -> Tensor:
            a = self.layer(x)
            score = 2 * a[:, 0].sum((1, 2)) - 3 * a[:, 1].sum((1, 2))
            return torch.stack([score, score], 1)

    x = samples(2)
    right = {"layer_cam": 2 * x[:, 0], "hires_cam": 2 * x[:, 0] - 3 * x[:, 1]}
    for name, numbers in right.items():
        assert miss(places(explain(Two(), x, name, layer="layer", relu=False)), numbers) < 1e-12
        assert miss(places(explain(Two(), x, name, layer="layer")), numbers.clamp(min=0)) < 1e-12


class LastAxis(nn.Module):
    """The network of `nets.Convolutional` with the channels of its layer last, or as rows of tokens."""

    def __init__(self, inner: nn.Module, form: str) -> None:
        super().__init__()
        self.inner, self.form = inner, form
        self.layer = nn.Identity()
        self.first = nn.Parameter(torch.full((1, 1, 4), 0.3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner.features[:4](x)
        if self.form == "channels last":
            hidden = self.layer(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            tokens = hidden.flatten(2).transpose(1, 2)
            tokens = self.layer(torch.cat([self.first.expand(len(x), 1, 4), tokens], 1))
            hidden = tokens[:, 1:].transpose(1, 2).unflatten(2, hidden.shape[2:])
        return self.inner.head(hidden.mean((2, 3)))


@pytest.mark.parametrize("form", ["channels last", "tokens"])
@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "eigen_cam", "score_cam", "ablation_cam"])
def test_every_layout_gives_the_same_map(form: str, method: str) -> None:
    inner, x = nets.Convolutional(dtype=torch.float64, side=1), samples(2)
    right = explain(inner, x, method, layer="features.3").attribution
    found = explain(LastAxis(inner, form), x, method, layer="layer").attribution
    assert miss(found, right) < 1e-10


def test_maps_of_inputs_that_are_not_square() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).double()
    x = samples(2, shape=(3, 12, 20))
    found = explain(model, x, "grad_cam")
    assert found.shape == x.shape
    activation = model[:2](x).detach()
    raw = (model[4].weight[1].detach()[:, None, None] / 60 * activation).sum(1).clamp(min=0)
    right = F.interpolate(raw[:, None], (12, 20), mode="bilinear", align_corners=False)[:, 0]
    assert miss(places(found), right) < 1e-12


def _as_it_is(task: Task, raw: Tensor) -> Lifted:
    return Lifted(raw, Context(), [str(i) for i in range(len(raw))])


def test_maps_of_series_and_volumes() -> None:
    for convolution, pool, shape in (
        (nn.Conv1d, nn.AdaptiveAvgPool1d, (3, 24)),
        (nn.Conv3d, nn.AdaptiveAvgPool3d, (3, 4, 6, 8)),
    ):
        model = nn.Sequential(
            convolution(3, 4, 3, padding=1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(4, 5)
        )
        x = samples(2, shape=shape)
        task = Task(model.double(), "series", _as_it_is, output_kind="logits")
        found = abe.explain(task, x, "grad_cam", target=1, progress=False)
        activation = model[:2](x).detach()
        weights = model[4].weight[1].detach() / activation[0, 0].numel()
        right = torch.einsum("k,nk...->n...", weights, activation).clamp(min=0)
        assert miss(found.attribution.sum(1), right) < 1e-12


def test_channels_are_removed_in_chunks_however_many_there_are() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 96, 3)
            self.head = nn.Linear(96, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x).relu().mean((2, 3)))

    inner = Wide().double()
    for method in ("score_cam", "ablation_cam"):
        model = nets.Watched(inner, limit=8)
        found = explain(model, samples(2), method, layer="net.layer")
        assert found.cost.forward_rows == model.forward_rows == 2 + 2 * 96
        assert found.cost.chunk <= 8


def test_a_map_keeps_the_score_of_the_named_target() -> None:
    case = oracle("gradcam_gradcam")
    both = run(case, "grad_cam", layer=LAYER)
    other = dict(case, target=(case["target"] + 1) % 10)
    assert miss(run(other, "grad_cam", layer=LAYER).attribution, both.attribution) > 0.01


# --- weights as values --------------------------------------------------------------------------------


def test_weights_are_registered_values() -> None:
    assert {"mean_gradient", "principal", "masked_score", "ablation"} <= set(channel_weights.names())
    for name in channel_weights.names():
        if name != "masked_score":  # needs a baseline
            made = channel_weights.make(name)
            assert from_spec(to_spec(made)) == made
    case = oracle("gradcam_gradcam")
    ours = run(case, "channel_map", weights="gradient_here")
    assert torch.equal(ours.attribution, run(case, "hires_cam").attribution)


class Largest:
    """w_k = the largest gradient of channel k: a weight of one's own is one value."""

    needs_gradient = True

    def __call__(self, view: View) -> Tensor:
        return view.combine(view.gradient.flatten(2).amax(2))


def test_weights_of_ones_own() -> None:
    case = oracle("gradcam_gradcam")
    found = run(case, "channel_map", weights=Largest(), layer=LAYER, relu=False)
    right = []
    for x, target in zip(case["x"], case["target"].tolist(), strict=True):
        a, g, _ = by_hand(net("s"), x, target)
        right.append((g.amax((1, 2))[:, None, None] * a).sum(0))
    assert miss(places(found), enlarged(torch.stack(right))) < FLOAT64


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("grad_cam", {"normalise": True, "upsample": "nearest"}),
        ("layer_cam", {"relu": False}),
        ("score_cam", {"baseline": "blur", "variant": "published"}),
        ("eigen_cam", {"variant": "published"}),
    ],
)
def test_laws_at_other_settings(method: str, params: dict[str, object]) -> None:
    check_method(method, only=["batch", "order", "chunk", "dtype", "cost", "restored", "spec"], **params)


def test_laws_at_a_named_layer() -> None:
    rows = ["batch", "order", "chunk", "dtype", "spec"]  # others wrap the net, which changes names
    check_method("grad_cam", only=rows, layer="features.0", relu=False)


def test_engines_are_values() -> None:
    made = ChannelMap(weights=channel_weights.make("mean_gradient"), layer="4")
    assert from_spec(to_spec(made)) == made
    assert hash(from_spec(to_spec(made))) == hash(made)
