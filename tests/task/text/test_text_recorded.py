"""Texts against recorded numbers of published code and of plain formulas.

`recorded/texts.npz` holds them, with the weights of the six networks: captum's gradients and paths at an
embedding, games over tokens by three removals, attention of a BERT, curves and scores of given maps.
"""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.task.text.bert import Bert
from torch import Tensor, nn

import abe

FILE = Path(__file__).parent / "recorded" / "texts.npz"
NETS = ("textcnn_a", "textcnn_b", "bigru_a", "bigru_b", "bert_a", "bert_b")


class TextCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.conv = nn.Embedding(20, 8), nn.Conv1d(8, 12, 3, padding=1)
        self.fc = nn.Linear(12, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.conv(self.emb(ids).transpose(1, 2)).relu().amax(2))


class BiGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.gru = nn.Embedding(20, 8), nn.GRU(8, 6, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, ids: Tensor) -> Tensor:
        _, last = self.gru(self.emb(ids))
        return self.fc(last.transpose(0, 1).flatten(1))


CLASSES: dict[str, type[nn.Module]] = {"textcnn": TextCNN, "bigru": BiGRU, "bert": Bert}


@cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def case(name: str) -> dict[str, np.ndarray]:
    found = {k.removeprefix(f"{name}/"): v for k, v in recorded().items() if k.startswith(f"{name}/")}
    assert found, name
    return found


@cache
def model_of(net: str) -> nn.Module:
    model = CLASSES[net[:-2]]()
    held = {k: torch.from_numpy(v) for k, v in case(f"net/{net}").items()}
    missing, unexpected = model.load_state_dict(held, strict=False)
    assert not [k for k in missing if "position_ids" not in k], missing
    assert not [k for k in unexpected if "position_ids" not in k], unexpected
    return model.double().eval()


def task_of(net: str, *, special: bool) -> abe.Task:
    bert = net.startswith("bert")
    tokens: Any = {"pad_token_id": 0, "unk_token_id": 1, "mask_token_id": 4 if bert else 1}
    tokens["all_special_ids"] = [2, 3] if special and bert else []
    return abe.text_task(model_of(net), SimpleNamespace(**tokens))


def given(net: str, held: dict[str, np.ndarray]) -> Any:
    if net.startswith("bert"):
        return {
            "input_ids": torch.from_numpy(held["ids"]),
            "attention_mask": torch.from_numpy(held["attention_mask"]),
        }
    if net.startswith("textcnn"):
        return torch.from_numpy(held["ids"])  # its padding is read, as it was when this was recorded
    return [list(map(int, row[:n])) for row, n in zip(held["ids"], held["lengths"], strict=True)]


def close(found: Tensor, wanted: np.ndarray, bar: float) -> None:
    other = torch.from_numpy(wanted).to(found)
    assert found.shape == other.shape
    assert float((found - other).abs().max() / other.abs().max()) < bar


def laid(found: abe.Explanation) -> Tensor:
    """(b, t, d) a map as the records have it."""
    return found.attribution.movedim(1, 2)


@pytest.mark.parametrize("net", NETS)
def test_logits(net: str) -> None:
    held = case(f"logits_{net}")
    task = task_of(net, special=False)
    lifted = task.lift(given(net, held))
    outputs = task.reading(parts=lifted.parts).forward
    out = torch.cat([outputs(lifted.x[i : i + 1], lifted.context.take(torch.tensor([i]))) for i in range(3)])
    close(out.detach(), held["logits_padded"], 1e-10)


@pytest.mark.parametrize("net", NETS)
def test_gradients(net: str) -> None:
    held = case(f"lgxa_{net}")
    for name, method in (("out", "gradient_x_input"), ("grad", "gradient")):
        found = abe.explain(
            task_of(net, special=False), given(net, held), method, target=held["target"], progress=False
        )
        close(laid(found), held[name], 1e-10)


PATHS = [
    (net, reference, "logit", 20, "gauss_legendre")
    for net in NETS
    for reference in ("zero", "mean_embedding", "pad", "mask")
]
PATHS += [(net, "pad", "probability", 50, "gauss_legendre") for net in NETS]
FILES = {"zero": "ig_{}_zeroemb_gl20", "mean_embedding": "ig_{}_meanemb_gl20"}


@pytest.mark.parametrize(("net", "reference", "objective", "steps", "rule"), PATHS)
def test_paths(net: str, reference: str, objective: str, steps: int, rule: str) -> None:
    kind = "logit" if objective == "logit" else "prob"
    name = FILES.get(reference, "lig_{}_" + f"{reference}_gl{steps}_{kind}").format(net)
    held = case(name)
    found = abe.explain(
        task_of(net, special=False),
        given(net, held),
        "ig",
        baseline=reference,
        steps=steps,
        quadrature=rule,
        objective=objective,
        target=held["target"],
        progress=False,
    )
    close(laid(found), held["exact_nodes"], 1e-10)


@pytest.mark.parametrize("net", ["bert_a", "bert_b"])
def test_paths_that_leave_special_tokens(net: str) -> None:
    held = case(f"lig_{net}_pad_keepspecial_gl20_logit")
    found = abe.explain(
        task_of(net, special=True),
        given(net, held),
        "ig",
        baseline="pad",
        steps=20,
        target=held["target"],
        progress=False,
    )
    close(laid(found), held["exact_nodes"], 1e-10)


GAMES = [
    (net, t, removal) for net in NETS for t in range(3) for removal in ("replace", "attention", "delete")
]


@pytest.mark.parametrize(
    ("net", "text", "removal"), [g for g in GAMES if g[0].startswith("bert") or g[2] != "attention"]
)
def test_games(net: str, text: int, removal: str) -> None:
    held = case(f"game_{net}_t{text}_{removal}")
    task, ids, target = task_of(net, special=True), torch.from_numpy(held["ids"]), int(held["target"])
    how: dict[str, Any] = {"removal": "mask" if removal == "replace" else removal, "max_units": 12}
    if net.startswith("bert"):
        ids = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}  # type: ignore[assignment]
    for objective, name in (("logit", "token_shapley"), ("probability", "token_shapley_prob")):
        wanted = held[name][:, target] if name == "token_shapley" else held[name]
        found = abe.explain(
            task, ids, "shapley", units="token", target=target, objective=objective, progress=False, **how
        )
        close(found.attribution[0].sum(0)[torch.from_numpy(held["players_token"])], wanted, 1e-9)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("text", range(3))
def test_curves_and_scores(net: str, text: int) -> None:
    held = case(f"metric_{net}_t{text}")
    task, target = task_of(net, special=True), int(held["target"])
    ids: Any = torch.from_numpy(held["ids"])
    raw = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} if net.startswith("bert") else ids
    base = abe.explain(task, raw, "gradient", target=target, progress=False)
    attribution = torch.zeros_like(base.attribution)
    attribution[0, 0, torch.from_numpy(held["players"])] = torch.from_numpy(held["attribution"])
    for removal in ("replace", "attention", "delete"):
        if f"{removal}_auc_deletion" not in held:
            continue
        found = abe.evaluate(
            task,
            {"given": attribution},
            ["deletion", "insertion", "comprehensiveness", "sufficiency_aopc"],
            data=raw,
            target=target,
            unit="token",
            baseline="mask" if removal == "replace" else removal,
            step=1,
            progress=False,
        ).scores["given"]
        for metric, name in (
            ("deletion", "auc_deletion"),
            ("insertion", "auc_insertion"),
            ("comprehensiveness", "aopc_comprehensiveness"),
            ("sufficiency_aopc", "aopc_sufficiency"),
        ):
            assert float(found[metric].values[0]) == pytest.approx(
                float(held[f"{removal}_{name}"]), abs=1e-9
            ), (
                removal,
                metric,
            )


@pytest.mark.parametrize("net", ["bert_a", "bert_b"])
def test_attention(net: str) -> None:
    held = case(f"attention_{net}")
    task = task_of(net, special=False)
    for method, name in (("chefer_relevance", "chefer"), ("attention_rollout", "rollout")):
        found = abe.explain(task, given(net, held), method, query=0, target=held["target"], progress=False)
        rows = held[name][:, 0]
        for sample, n in enumerate(held["lengths"]):
            own = found.attribution[sample].sum(0)[1:n]
            wanted = torch.from_numpy(rows[sample, 1:n])
            assert float((own / own.sum() - wanted / wanted.sum()).abs().max()) < 1e-8
