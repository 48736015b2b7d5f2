"""Removal methods against captum, shap, shapiq and lime, run on the same rows wherever rows are drawn."""

import pytest
import torch
from tests.methods.common import FLOAT64, images, miss, net, oracle, run
from tests.methods.test_removal_oracles import Partly, Segments, regions, unit_values
from torch import Tensor

import abe
from abe.engines.removal import set_functions
from abe.testing.draws import ReplayedDraws

pytestmark = pytest.mark.peers

TARGET = torch.tensor([3, 8])
GAME = "game_net_s_8seg_1"


def two() -> dict[str, Tensor]:
    return {"x": images()[:2], "target": TARGET}


def labels(cells: int) -> Tensor:
    """(1, 3, 32, 32) numbers of cells × cells squares, as captum wants them."""
    place = torch.arange(32) * cells // 32
    return (place[:, None] * cells + place).expand(1, 3, 32, 32).contiguous()


# --- captum -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "stride", "fill"), [(8, 4, 0.0), (8, 8, 0.5), (10, 6, 0.25)])
def test_captum_occlusion(size: int, stride: int, fill: float) -> None:
    attr = pytest.importorskip("captum.attr")
    right = attr.Occlusion(net("s")).attribute(
        two()["x"],
        target=TARGET,
        sliding_window_shapes=(3, size, size),
        strides=(3, stride, stride),
        baselines=fill,
    )
    found = run(two(), "occlusion_patch", size=size, stride=stride, removal=("constant", {"value": fill}))
    assert miss(found.attribution, right) < 1e-7  # it averages overlaps in float32


def test_captum_feature_ablation() -> None:
    attr = pytest.importorskip("captum.attr")
    x, mask, fill = two()["x"], labels(4), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    right = attr.FeatureAblation(net("s")).attribute(x, baselines=fill, target=TARGET, feature_mask=mask)
    found = run(
        two(),
        "occlusion",
        units=("grid", {"n": 4}),
        removal=abe.baselines.Given(reference=fill),
        variant="published",
    )
    assert miss(found.attribution, right) < FLOAT64


def test_captum_shapley_value_sampling_on_the_same_orders() -> None:
    """Six orders of nine cells and their reverses, replayed on both sides."""
    attr = pytest.importorskip("captum.attr")
    x, pairs = two()["x"][:1], 6
    orders = [torch.randperm(9, generator=torch.Generator().manual_seed(k)) for k in range(pairs)]
    places = torch.stack(orders).argsort(dim=1).double()
    explainer = attr.ShapleyValueSampling(net("s"))
    explainer.permutation_generator = lambda *_: (
        o.tolist() for order in orders for o in (order, order.flip(0))
    )
    right = explainer.attribute(x, target=TARGET[:1], feature_mask=labels(3), n_samples=2 * pairs)
    found = run(
        {"x": x, "target": TARGET[:1]},
        "shapley",
        units=("grid", {"n": 3}),
        estimator="permutation",
        evaluations=1 + 2 * pairs * 8,
        variant="published",
        draws=ReplayedDraws({"removal.PermutationShapley": {(0, 0): places / 9}}),
    )
    assert miss(found.attribution, right) < 1e-6  # captum adds up in float32


@pytest.mark.parametrize("kind", ["ShapleyValueSampling", "KernelShap"])
def test_captum_sampled_values_are_around_the_exact_ones(kind: str) -> None:
    attr = pytest.importorskip("captum.attr")
    x = two()["x"][:1]
    case = {"x": x, "target": TARGET[:1]}
    exact = run(case, "shapley", units=("grid", {"n": 3}), variant="published").attribution
    torch.manual_seed(1)
    explainer, draws = getattr(attr, kind)(net("s")), {"ShapleyValueSampling": 300, "KernelShap": 3000}
    right = explainer.attribute(
        x, target=TARGET[:1], feature_mask=labels(3), n_samples=draws[kind], perturbations_per_eval=64
    )
    assert miss(exact, right) < 0.05


# --- shap ---------------------------------------------------------------------------------------------


def test_shap_exact_and_permutation() -> None:
    """Its permutation explainer runs orders both ways, as ours does; both end at the exact values."""
    shap = pytest.importorskip("shap")
    import numpy as np

    case = oracle(GAME)
    game = Segments(case)

    def score(z):
        return game(torch.as_tensor(np.asarray(z, dtype=float))).numpy()

    background, whole = np.zeros((1, 8)), np.ones((1, 8))
    exact = shap.ExactExplainer(score, shap.maskers.Independent(background))(whole).values
    found = run(case, "shapley", units=regions(case))
    assert miss(unit_values(found), torch.as_tensor(exact)) < FLOAT64
    explainer = shap.PermutationExplainer(score, shap.maskers.Independent(background), seed=0)
    sampled = torch.as_tensor(explainer(whole, max_evals=2000, silent=True).values)
    ours = run(case, "shapley", units=regions(case), estimator="permutation", evaluations=200)
    assert miss(unit_values(ours), unit_values(found)) < 0.1
    assert miss(sampled, unit_values(found)) < 0.05


def test_shap_deep_explainer() -> None:
    """DeepSHAP on a network without max-pool, for which the peers keep other rules than they say."""
    shap = pytest.importorskip("shap")
    from torch import nn

    model = net("s")
    model[2], model[5] = nn.AvgPool2d(2), nn.AvgPool2d(2)
    x, background = two()["x"], images()[2:]
    right = shap.DeepExplainer(model, background).shap_values(x, check_additivity=False)
    right = torch.as_tensor(right)[torch.arange(2), ..., TARGET]
    task = abe.image_task(model, output_kind="logits")
    found = abe.explain(task, x, "deepshap", background=background, target=TARGET, progress=False)
    assert miss(found.attribution, right) < 1e-6  # it works in float32


# --- shapiq -------------------------------------------------------------------------------------------

SHAPIQ = {
    "SII": ("sii", 2),
    "STII": ("stii", 2),
    "BII": ("bii", 2),
    "k-SII": ("k_sii", 2),
    "FSII": ("fsii", 2),
    "FBII": ("fbii", 2),
    "Moebius": ("moebius", 8),
}


@pytest.fixture(scope="module")
def computer():
    shapiq = pytest.importorskip("shapiq")
    game = Segments(oracle(GAME))
    return shapiq.ExactComputer(lambda z: game(torch.as_tensor(z)).numpy(), n_players=8)


@pytest.mark.parametrize("index", SHAPIQ)
def test_shapiq_interactions(index: str, computer) -> None:
    own, order = SHAPIQ[index]
    right = computer(index, order=order)
    sets, found = set_functions.interactions(oracle(GAME)["values"], own, order)
    wanted = [right[tuple(i for i in range(8) if code >> i & 1)] for code in sets.tolist()]
    limit = 1e-8 if index == "FSII" else FLOAT64  # a regression with large weights instead of a constraint
    assert miss(found[None], torch.tensor(wanted, dtype=torch.float64)[None]) < limit


def test_shapiq_values(computer) -> None:
    case = oracle(GAME)
    for index, method in (("SV", "shapley"), ("BV", "banzhaf")):
        right = computer(index, order=1)
        wanted = torch.tensor([[right[(i,)] for i in range(8)]], dtype=torch.float64)
        assert miss(unit_values(run(case, method, units=regions(case))), wanted) < FLOAT64


def test_shapiq_kernel_shap_with_all_coalitions() -> None:
    shapiq = pytest.importorskip("shapiq")
    case = oracle(GAME)
    game = Segments(case)
    found = shapiq.KernelSHAP(8, random_state=0).approximate(256, lambda z: game(torch.as_tensor(z)).numpy())
    wanted = torch.tensor([[found[(i,)] for i in range(8)]], dtype=torch.float64)
    assert miss(unit_values(run(case, "kernel_shap", units=regions(case), evaluations=255)), wanted) < 1e-6


# --- lime ---------------------------------------------------------------------------------------------


def test_lime_image_explainer_on_the_same_rows() -> None:
    """The image explainer itself, its rows replayed: weights, intercept and R² of all eight segments."""
    lime = pytest.importorskip("lime.lime_image")
    import numpy as np

    case = oracle("game_net_s_8seg_0")
    x, target = case["x"], int(case["target"][0])
    rows: list[np.ndarray] = []

    class Recorded(lime.LimeImageExplainer):
        def data_labels(self, *args, **how):
            data, labels = super().data_labels(*args, **how)
            rows.append(data)
            return data, labels

    def scores(pictures):
        with torch.no_grad():
            return net("s")(torch.as_tensor(np.stack(pictures)).permute(0, 3, 1, 2)).numpy()

    segments = case["regions"].long().numpy()
    found = Recorded(random_state=0, feature_selection="none").explain_instance(
        x[0].permute(1, 2, 0).numpy(),
        scores,
        labels=(target,),
        top_labels=None,
        hide_color=0,
        num_features=8,
        num_samples=120,
        segmentation_fn=lambda _: segments,
    )
    right = torch.tensor([[w for _, w in sorted(found.local_exp[target])]], dtype=torch.float64)
    recorded = {"removal.Ridge": {(0, 0): torch.where(torch.as_tensor(rows[0][1:]) == 1, 0.0, 1.0)}}
    how = {"units": regions(case), "removal": "zero", "evaluations": 119, "variant": "published"}
    ours = run(case, "lime", draws=Partly(recorded), **how)
    assert miss(unit_values(ours), right) < 1e-8
    assert float(ours.diagnostics["adherence"]) == pytest.approx(score_of(found, target), abs=1e-8)


def score_of(explanation, target: int) -> float:
    """R² as one lime says it, or per label as another does."""
    return explanation.score[target] if isinstance(explanation.score, dict) else explanation.score
