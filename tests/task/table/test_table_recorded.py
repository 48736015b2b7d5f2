"""Tables against recorded numbers of published code and of plain formulas.

`recorded/tables.npz` holds them, with the weights of the four networks: Shapley values of shap and captum
over a background, Integrated Gradients averaged over it, ablations, interactions of shapiq, fits of lime.
Inputs that several cases share are stored with one of them.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import abe
from abe.baselines import Background
from abe.engines.removal import set_functions

FILE = Path(__file__).parent / "recorded" / "tables.npz"
FLOAT64 = 1e-9
FLOAT32_WEIGHTS = 1e-7
"""captum rounds the weights of its quadrature to float32."""
LIME = 1e-8
SIZES = ((4, 3), (3, 2), (5, 3))
"""Categories and dimensions of the three embeddings."""
NAMED = [f"cat{i}" for i in range(3)] + [f"num{i}" for i in range(5)]
INPUTS = {
    "num": "num_ablation",
    "mixed": "mixed_ablation",
    "onehot": "onehot_groups",
    "six": "six_interactions",
}
HOT = {"five": [4, 5, 6], "six": [7, 8, 9, 10]}


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.ModuleList(nn.Embedding(n, d) for n, d in SIZES)
        self.l1, self.l2, self.l3 = nn.Linear(13, 14), nn.Linear(14, 14), nn.Linear(14, 3)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        vectors = [table(codes[:, i]) for i, table in enumerate(self.emb)]
        return self.l3(self.l2(self.l1(torch.cat([*vectors, numbers], 1)).relu()).tanh())


NETS: dict[str, Any] = {
    "num": lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)),
    "mixed": Mixed,
    "onehot": lambda: nn.Sequential(nn.Linear(11, 14), nn.ReLU(), nn.Linear(14, 3)),
    "six": lambda: nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 2)),
}


@cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def case(name: str) -> dict[str, Tensor]:
    """The arrays of a case, with the inputs of its network."""
    net = name.partition("_")[0]
    found = {k: v for k, v in recorded().items() if k.startswith((f"{name}/", f"{INPUTS[net]}/"))}
    shared = {
        k.rpartition("/")[2]: v
        for k, v in found.items()
        if k.rpartition("/")[2] in ("x", "background", "target")
    }
    own = {k.rpartition("/")[2]: v for k, v in found.items() if k.startswith(f"{name}/")}
    assert own, name
    return {k: torch.from_numpy(v) for k, v in (shared | own).items()}


@cache
def net(name: str) -> nn.Module:
    made = NETS[name]().double()
    weights = {k.partition("/")[2]: v for k, v in recorded().items() if k.startswith(f"net_{name}/")}
    made.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return made.eval()


def task(name: str, **settings: Any) -> abe.Task:
    found = case(INPUTS[name])
    if name == "mixed":
        settings |= {"columns": NAMED, "categories": {f"cat{i}": n for i, (n, _) in enumerate(SIZES)}}
    return abe.table_task(net(name), background=found["background"], **settings)


def explained(of: abe.Task, found: dict[str, Tensor], method: str, **more: Any) -> Tensor:
    """(b, units) what a method gives every column."""
    made = abe.explain(of, found["x"], method, target=found["target"], progress=False, **more)
    return torch.tensor([[value for _, value in row] for row in made.by_unit()], dtype=torch.float64)


def miss(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def of_target(found: dict[str, Tensor]) -> Tensor:
    """(b, columns) the recorded values of the explained class."""
    return found["out_all"].gather(
        2, found["target"].view(-1, 1, 1).expand(-1, found["out_all"].shape[1], 1)
    )[..., 0]


@pytest.mark.parametrize("name", ["num_exact_logit", "num_exact_prob", "mixed_exact"])
def test_exact_shapley_values_over_the_background(name: str) -> None:
    found, of = case(name), task(name.partition("_")[0])
    objective = "probability" if name.endswith("prob") else "logit"
    values = explained(of, found, "shapley", objective=objective)
    assert miss(values, of_target(found)) < FLOAT64
    made = abe.explain(of, found["x"], "shapley", target=found["target"], objective=objective, progress=False)
    assert made.delta is not None
    assert miss(made.score - made.delta, found["base"][found["target"]]) < FLOAT64


def test_coalitions_of_columns() -> None:
    """Bit j of a coalition's number says whether column j is the row's own."""
    found, of = case("num_exact_logit"), task("num")
    target = int(found["target"][0])
    values = set_functions.shapley(found["v"][0, :, target][:, None])[:, 0]
    assert miss(explained(of, {k: v[:1] for k, v in found.items()}, "shapley")[0], values) < FLOAT64


def test_kernel_shap_with_all_coalitions() -> None:
    found = case("num_kernel_all")
    assert miss(explained(task("num"), found, "kernel_shap", evaluations=256 * 20), of_kernel(found)) < LIME


def of_kernel(found: dict[str, Tensor]) -> Tensor:
    return found["out"]


@pytest.mark.parametrize("name", ["num_ablation", "mixed_ablation"])
def test_ablation_of_columns(name: str) -> None:
    found, of = case(name), task(name.partition("_")[0])
    assert miss(explained(of, found, "occlusion"), found["out_marginal"]) < FLOAT64
    assert miss(explained(of, found, "occlusion", removal=Background()), found["out"]) < FLOAT64
    if "baseline" in found:
        row = of.lifter.columns.values(found["baseline"].numpy())
        again = explained(of, found, "occlusion", removal=("row", {"row": row}))
        assert miss(again, found["out"]) < FLOAT64


@pytest.mark.parametrize(
    ("name", "groups"),
    [("num_shapley_groups", {"four": [4, 5], "five": [6, 7]}), ("onehot_groups", HOT)],
)
def test_groups_of_columns_are_one_player(name: str, groups: dict[str, list[int]]) -> None:
    found = case(name)
    of = task("onehot" if name.startswith("onehot") else "num", groups=groups)
    assert miss(explained(of, found, "shapley"), found["out_group"]) < FLOAT64


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("num_ig_gausslegendre", {"steps": 50}),
        ("num_ig_riemann_middle", {"steps": 32, "quadrature": "midpoint"}),
        ("mixed_ig", {"steps": 50}),
    ],
)
def test_integrated_gradients_averaged_over_the_background(name: str, settings: dict[str, Any]) -> None:
    """One line from every background row: as many rows as lines, each with a reference of its own."""
    found, of = case(name), task(name.partition("_")[0])
    b, m = len(found["x"]), len(found["background"])
    lines = {k: found[k].repeat_interleave(m, 0) for k in ("x", "target")}
    references = of.lifter.references(of).repeat(b, 1)
    made = abe.explain(
        of, lines["x"], "ig", target=lines["target"], baseline=references, progress=False, **settings
    )
    mean = made.attribution.view(b, m, -1).mean(1)
    assert miss(mean, found["out_formula"]) < FLOAT64
    once = abe.explain(
        of,
        found["x"],
        ("over_references", {"base": ("ig", settings)}),
        target=found["target"],
        progress=False,
    )
    assert miss(once.attribution, found["out_formula"]) < FLOAT64
    rows = of.lift(found["background"])
    scores = of.reading(parts=rows.parts).forward(rows.x, rows.context).detach()
    start = scores[:, found["target"]].mean(0)
    torch.testing.assert_close(once.score - start.to(once.score), once.delta)
    columns = (
        torch.stack([part.sum(1) for part in mean.split([3, 2, 3, 1, 1, 1, 1, 1], 1)], 1)
        if mean.shape[1] == 13
        else mean
    )
    assert miss(columns, found["out"]) < FLOAT32_WEIGHTS


INDICES = ["sii", "k_sii", "stii", "bii", "fsii"]


@pytest.mark.parametrize("index", INDICES)
def test_interactions_of_columns(index: str) -> None:
    found = case("six_interactions")
    made = abe.explain(
        task("six"), found["x"], "interactions", index=index, order=2, target=found["target"], progress=False
    )
    recorded_as = {"k_sii": "ksii", "fsii": "fsii_exact"}.get(index, index)
    singles = {"sii": "sv_single", "bii": "bv_single"}.get(index, f"{recorded_as}_single")
    for b in range(len(found["x"])):
        value = dict(
            zip(
                made.diagnostics["interaction_sets"][b].tolist(),
                made.diagnostics["interactions"][b].tolist(),
                strict=True,
            )
        )
        pairs = [(i, j) for i in range(6) for j in range(i)]
        got = torch.tensor([value[1 << i | 1 << j] for i, j in pairs], dtype=torch.float64)
        wanted = torch.tensor(
            [float(found[f"{recorded_as}_pair"][b, i, j]) for i, j in pairs], dtype=torch.float64
        )
        assert float((got - wanted).abs().max()) < FLOAT64 * float(found["v"].abs().max())
        alone = torch.tensor([value[1 << i] for i in range(6)], dtype=torch.float64)
        assert float((alone - found[singles][b]).abs().max()) < FLOAT64 * float(found["v"].abs().max())


def test_dividends_of_columns() -> None:
    found = case("six_interactions")
    made = abe.explain(
        task("six"),
        found["x"],
        "interactions",
        index="moebius",
        order=6,
        target=found["target"],
        progress=False,
    )
    for b in range(len(found["x"])):
        sets = made.diagnostics["interaction_sets"][b].tolist()
        wanted = found["moebius"][b][sets]
        assert float((made.diagnostics["interactions"][b] - wanted).abs().max()) < FLOAT64 * 10


LIMES = {"num_lime": "rows", "num_lime_binned": "bins", "mixed_lime": "rows"}


def function_of(name: str) -> Any:
    """The network as somebody's function of an array of rows."""

    def answer(rows: np.ndarray) -> np.ndarray:
        held = torch.from_numpy(rows.astype(np.float64))
        out = net(name)(held[:, :3].long(), held[:, 3:]) if name == "mixed" else net(name)(held)
        return out.softmax(1).detach().numpy()

    return answer


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("name", LIMES)
def test_lime_of_recorded_rows(name: str, outside: bool) -> None:
    """Published code takes the root of the kernel, and shows the coefficients themselves."""
    found, which = case(name), name.partition("_")[0]
    train = case("num_lime")["train"] if "train" not in found else found["train"]
    settings: dict[str, Any] = {"background": train.numpy()}
    if which == "mixed":
        settings |= {"columns": NAMED, "categories": {f"cat{i}": n for i, (n, _) in enumerate(SIZES)}}
    model: Any = function_of(which) if outside else net(which)
    of = abe.table_task(model, output_kind="probabilities" if outside else "auto", **settings)
    how: dict[str, Any] = {"neighbours": LIMES[name], "variant": "published", "objective": "probability"}
    for row in range(2):
        made = abe.explain(
            of,
            found["x"][row : row + 1],
            "lime",
            rows=found["rows"][row],
            target=int(found["target"][row]),
            progress=False,
            **how,
        )
        assert miss(made.diagnostics["unit_values"][0], found["out"][row]) < LIME
        assert abs(float(made.diagnostics["intercept"] - found["intercept"][row])) < LIME
        assert abs(float(made.diagnostics["adherence"] - found["score"][row])) < LIME
    drawn = abe.explain(
        of, found["x"], "lime", target=found["target"], evaluations=2000, progress=False, **how
    )
    for row in range(2):  # 200 rows were drawn there, 2,000 here
        pair = torch.stack([drawn.diagnostics["unit_values"][row], found["out"][row]])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.8
