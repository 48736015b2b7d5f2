"""Texts against recorded numbers of published code and of plain formulas.

`recorded/texts.npz` holds them, with the weights of the six networks: captum's gradients, paths, DeepLIFT,
ablations and Shapley values, games over tokens and words by three removals, LIME of all coalitions, attention
and AttnLRP of a BERT, interpreto's maps, curves and scores of given maps.
"""

from dataclasses import replace
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
from abe.engines.backward.lrp_other import Identity
from abe.engines.backward.run import AsItIs

FILE = Path(__file__).parent / "recorded" / "texts.npz"
BERTS = ("bert_a", "bert_b")
SLOW = pytest.mark.slow
TEXTS = [pytest.param(0, marks=SLOW), pytest.param(1, marks=SLOW), 2]
NETS = ("textcnn_a", "textcnn_b", "bigru_a", "bigru_b", *BERTS)


class TextCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.conv = nn.Embedding(20, 8), nn.Conv1d(8, 12, 3, padding=1)
        self.fc = nn.Linear(12, 3)

    def forward(self, ids: Tensor) -> Tensor:
        # of equal maxima, max passes the gradient to one and amax to all
        return self.fc(self.conv(self.emb(ids).transpose(1, 2)).relu().max(2).values)


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


def task_of(net: str, *, fixed: Any = "special") -> abe.Task:
    bert = net.startswith("bert")
    tokens: Any = {"pad_token_id": 0, "unk_token_id": 1, "mask_token_id": 4 if bert else 1}
    if bert:
        tokens["all_special_ids"] = [0, 1, 2, 3, 4]
    return abe.text_task(model_of(net), SimpleNamespace(**tokens), fixed=fixed)


def alone(net: str, ids: np.ndarray) -> Any:
    """One text (1, t) without padding."""
    held = torch.from_numpy(ids)
    return {"input_ids": held, "attention_mask": torch.ones_like(held)} if net.startswith("bert") else held


def by_position(found: abe.Explanation) -> Tensor:
    """(t,) what every token of the only text has."""
    return found.attribution[0].sum(0)


def by_group(found: abe.Explanation) -> Tensor:
    """(u,) what every unit of the only text has."""
    return found.diagnostics["unit_values"][0]


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


def explained(task: abe.Task, raw: Any, method: str, target: Any, **how: Any) -> abe.Explanation:
    target = int(target) if np.ndim(target) == 0 else target
    return abe.explain(task, raw, method, target=target, progress=False, **how)


def laid(found: abe.Explanation) -> Tensor:
    """(b, t, d) a map as the records have it."""
    return found.attribution.movedim(1, 2)


@pytest.mark.parametrize("net", NETS)
def test_logits(net: str) -> None:
    held = case(f"logits_{net}")
    task = task_of(net)

    def outputs(raw: Any) -> Tensor:
        lifted = task.lift(raw)
        run = task.reading(parts=lifted.parts).forward
        return torch.cat(
            [run(lifted.take(torch.tensor([i])).x, lifted.take(torch.tensor([i])).context) for i in range(3)]
        )

    close(outputs(given(net, held)).detach(), held["logits_padded"], 1e-10)
    texts = [list(map(int, row[:n])) for row, n in zip(held["ids"], held["lengths"], strict=True)]
    close(outputs(texts).detach(), held["logits_alone"], 1e-10)
    close(outputs(torch.from_numpy(held["ids"])).detach(), held["logits_nomask"], 1e-10)


@pytest.mark.parametrize("net", NETS)
def test_gradients(net: str) -> None:
    held = case(f"lgxa_{net}")
    task, raw, target = task_of(net, fixed="padding"), given(net, held), held["target"]
    close(laid(explained(task, raw, "gradient_x_input", target)), held["out"], 1e-10)
    close(laid(explained(task, raw, "gradient_x_input", (target + 1) % 3)), held["out_other"], 1e-10)
    found = laid(explained(task, raw, "gradient", target))
    close(found, held["grad"], 1e-10)
    close(found.norm(dim=2), held["grad_l2"], 1e-10)


@pytest.mark.parametrize("net", NETS)
def test_texts_alone_and_in_a_batch(net: str) -> None:
    """Texts of unequal length are padded by the library and give what each gives alone."""
    held = case(f"lgxa_{net}")
    texts = [list(map(int, row[:n])) for row, n in zip(held["ids"], held["lengths"], strict=True)]
    task = task_of(net, fixed="padding")
    close(laid(explained(task, texts, "gradient_x_input", held["target"])), held["alone"], 1e-10)
    held = case(f"ig_{net}_zeroemb_gl20")
    found = explained(task, texts, "ig", held["target"], baseline="zero", steps=20)
    close(laid(found), held["alone"], 5e-7)


REFERENCES = ("zero", "mean_embedding", "pad", "mask")
PATHS = [
    *[(net, reference, "logit", 20, "gauss_legendre") for net in NETS for reference in REFERENCES],
    *[(net, "pad", "probability", 50, "gauss_legendre") for net in NETS],
    *[(net, "pad", "logit", 20, "published_trapezoid") for net in NETS],
]
FILES = {"zero": "ig_{}_zeroemb_gl20", "mean_embedding": "ig_{}_meanemb_gl20"}
RULES = {"gauss_legendre": "gl", "published_trapezoid": "trap"}


@pytest.mark.parametrize(("net", "reference", "objective", "steps", "rule"), PATHS)
def test_paths(net: str, reference: str, objective: str, steps: int, rule: str) -> None:
    kind = "logit" if objective == "logit" else "prob"
    name = FILES.get(reference, "lig_{}_" + f"{reference}_{RULES[rule]}{steps}_{kind}").format(net)
    held = case(name)
    found = explained(
        task_of(net, fixed="padding"),
        given(net, held),
        "ig",
        held["target"],
        baseline=reference,
        steps=steps,
        quadrature=rule,
        objective=objective,
    )
    close(laid(found), held["exact_nodes"], 1e-10)


@pytest.mark.parametrize("net", NETS)
def test_a_reference_by_its_id(net: str) -> None:
    held = case(f"lig_{net}_mask_gl20_logit")
    token = 4 if net.startswith("bert") else 1
    task, raw = abe.text_task(model_of(net), fixed="padding"), given(net, held)
    found = explained(
        task, raw, "ig", held["target"], baseline=("reference_token", {"token": token}), steps=20
    )
    close(laid(found), held["exact_nodes"], 1e-10)


KEPT = [
    ("gl20_logit", "gauss_legendre", 20),
    ("gl50_prob", "gauss_legendre", 50),
    ("trap20_logit", "published_trapezoid", 20),
]


@pytest.mark.parametrize(("kind", "rule", "steps"), KEPT)
@pytest.mark.parametrize("net", BERTS)
def test_paths_that_leave_special_tokens(net: str, kind: str, rule: str, steps: int) -> None:
    held = case(f"lig_{net}_pad_keepspecial_{kind}")
    objective = "probability" if kind.endswith("prob") else "logit"
    how: dict[str, Any] = {"baseline": "pad", "steps": steps, "quadrature": rule, "objective": objective}
    found = explained(task_of(net), given(net, held), "ig", held["target"], **how)
    close(laid(found), held["exact_nodes"], 1e-10)


@pytest.mark.parametrize("net", BERTS)
def test_paths_at_the_whole_embedding(net: str) -> None:
    """Words, places and types together, from what the layer gives for a text of padding tokens."""
    held = case(f"lig_{net}_embblock_pad_gl20_logit")
    ig = abe.method("ig", baseline="pad", steps=20)
    method: Any = abe.at_layer(ig, "bert.embeddings.LayerNorm")
    found = explained(task_of(net, fixed="padding"), given(net, held), method, held["target"])
    close(found.attribution, held["exact_nodes"], 1e-10)


@pytest.mark.parametrize("reference", ["pad", "mask"])
@pytest.mark.parametrize("net", [n for n in NETS if not n.startswith("bigru")])
def test_rescale_rule(net: str, reference: str) -> None:
    """Published code rescales modules of activations; functions, such as a maximum, pass their gradient.

    The maps are not complete. Ours are, where nothing is left out.
    """
    held = case(f"ldeeplift_{net}_{reference}")
    task, raw = task_of(net, fixed="padding"), given(net, held)
    plain = ("gelu", "softmax", "layer_norm", "matmul") if net.startswith("bert") else ()
    rules = tuple((name, AsItIs()) for name in plain)
    how: dict[str, Any] = {"baseline": reference, "rules": rules, "variant": "published"}
    close(laid(explained(task, raw, "deeplift", held["target"], **how)), held["out"], 1e-10)
    whole = explained(task, raw, "deeplift", held["target"], baseline=reference)
    assert whole.residual is not None
    assert float(whole.residual.abs().max()) < 1e-9


REMOVALS = {"replace": "mask", "attention": "attention", "delete": "delete"}
GAMES = [(net, t, r) for net in NETS for t in range(3) for r in REMOVALS if net in BERTS or r != "attention"]


@pytest.mark.parametrize(
    ("net", "text", "removal"), [pytest.param(*g, marks=() if g[1] == 2 else SLOW) for g in GAMES]
)
def test_games(net: str, text: int, removal: str) -> None:
    """Of tokens and of words, which are groups of them; special tokens stay."""
    held = case(f"game_{net}_t{text}_{removal}")
    task, raw, target = task_of(net), alone(net, held["ids"]), held["target"]
    how: dict[str, Any] = {"removal": REMOVALS[removal], "max_units": 12}
    words = np.full(held["ids"].shape[1], -1)
    words[held["players_token"]] = held["word_of_player"]
    for objective, of in (("logit", ""), ("probability", "_prob"), ("log_probability", "_logprob")):
        wanted = held[f"token_shapley{of}"]
        wanted = wanted if of else wanted[:, target]
        found = explained(task, raw, "shapley", target, units="token", objective=objective, **how)
        close(by_position(found)[torch.from_numpy(held["players_token"])], wanted, 1e-9)
        if of != "_logprob":
            wanted = held[f"word_shapley{of}"]
            wanted = wanted if of else wanted[:, target]
            found = explained(task, raw, "shapley", target, units=words, objective=objective, **how)
            close(by_group(found), wanted, 1e-9)


@pytest.mark.parametrize(("net", "text", "removal"), [g for g in GAMES if g[1] == 2])
def test_dividends(net: str, text: int, removal: str) -> None:
    held = case(f"game_{net}_t{text}_{removal}")
    n = len(held["players_token"])
    how: dict[str, Any] = {"units": "token", "removal": REMOVALS[removal], "index": "moebius", "order": n}
    found = explained(task_of(net), alone(net, held["ids"]), "interactions", held["target"], **how)
    sets = found.diagnostics["interaction_sets"][0]
    assert len(sets) == 2**n - 1
    close(found.diagnostics["interactions"][0], held["token_moebius"][sets.numpy()], 1e-9)


PERTURBED = [
    (net, t, r)
    for net in NETS
    for t in range(3)
    for r in ("pad", "maskid", "attention")
    if net in BERTS or r != "attention"
]
FLOAT32_SUMS = 1e-5
"""captum adds Shapley values up in float32."""


@pytest.mark.parametrize(
    ("net", "text", "removal"), [pytest.param(*g, marks=() if g[1] == 2 else SLOW) for g in PERTURBED]
)
def test_ablations_and_orders(net: str, text: int, removal: str) -> None:
    """Every token is a unit, special ones too; groups are one unit each, and their value is shown whole."""
    held = case(f"perturb_{net}_t{text}_{removal}")
    task, raw, target = task_of(net, fixed="padding"), alone(net, held["ids"]), held["target"]
    ids = {"pad": 0, "maskid": 4 if net in BERTS else 1}
    absent: Any = ("reference_token", {"token": ids[removal]}) if removal in ids else removal
    tokens: dict[str, Any] = {"units": "token", "removal": absent}
    groups: dict[str, Any] = {"units": held["feature_mask"], "removal": absent, "variant": "published"}
    close(by_position(explained(task, raw, "occlusion", target, **tokens)), held["ablation"][0], 1e-10)
    close(by_position(explained(task, raw, "shapley", target, **tokens)), held["shapley_exact"], 1e-10)
    grouped = explained(task, raw, "shapley", target, **groups).attribution[0, 0]
    close(grouped, held["shapley_grouped"][0], FLOAT32_SUMS)
    if removal in ids:
        grouped = explained(task, raw, "occlusion", target, **groups).attribution[0, 0]
        close(grouped, held["ablation_grouped"][0], 1e-10)
        sampled = explained(task, raw, "shapley", target, orders=held["permutations"], **tokens)
        close(by_position(sampled), held["sampling"][0], FLOAT32_SUMS)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("text", TEXTS)
def test_lime_of_all_coalitions(net: str, text: int) -> None:
    """Published code takes 100 times the cosine distance, a width of 25 and the root of the kernel."""
    held = case(f"lime_{net}_t{text}")
    task, raw, target = task_of(net), alone(net, held["ids"]), held["target"]
    how: dict[str, Any] = {"units": "token", "removal": "mask", "coalitions": held["masks"]}
    fit: dict[str, Any] = {"width": 25 / 100, "penalty": 1, "variant": "published"}
    found = explained(task, raw, "lime", target, objective="probability", **how, **fit)
    close(by_group(found), held["coef"], 1e-10)
    assert float(found.diagnostics["intercept"]) == pytest.approx(float(held["intercept"]), abs=1e-10)
    assert float(found.diagnostics["adherence"]) == pytest.approx(float(held["score"]), abs=1e-10)
    close(by_group(explained(task, raw, "lime", target, **how, **fit)), held["coef_logit_formula"], 1e-10)
    flat: dict[str, Any] = {"width": 1e12, "penalty": 0}
    found = explained(task, raw, "lime", target, objective="probability", **how, **flat)
    plain = torch.cat([found.diagnostics["intercept"][0], by_group(found)])
    close(plain, held["coef_ols_uniform_formula"], 1e-10)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("text", TEXTS)
def test_curves_and_scores(net: str, text: int) -> None:
    held = case(f"metric_{net}_t{text}")
    task, raw, target = task_of(net), alone(net, held["ids"]), int(held["target"])
    base = explained(task, raw, "gradient", target)
    attribution = torch.zeros_like(base.attribution)
    attribution[0, 0, torch.from_numpy(held["players"])] = torch.from_numpy(held["attribution"])
    for removal, absent in REMOVALS.items():
        if f"{removal}_auc_deletion" not in held:
            continue
        how: dict[str, Any] = {"unit": "token", "baseline": absent, "step": 1}

        def scored(*metrics: Any, how: dict[str, Any] = how) -> Any:
            return abe.evaluate(
                task, {"given": attribution}, list(metrics), data=raw, target=target, progress=False, **how
            ).scores["given"]

        found = scored("deletion", "insertion", "comprehensiveness", "sufficiency_aopc", "aopc")
        for metric, name in (
            ("deletion", "auc_deletion"),
            ("insertion", "auc_insertion"),
            ("comprehensiveness", "aopc_comprehensiveness"),
            ("sufficiency_aopc", "aopc_sufficiency"),
            ("aopc", "aopc_samek"),
        ):
            wanted = float(held[f"{removal}_{name}"])
            assert float(found[metric].values[0]) == pytest.approx(wanted, abs=1e-9), (removal, metric)
        lost, kept = (found[metric].curve[0] for metric in ("deletion", "insertion"))
        close(lost, held[f"{removal}_deletion_prob"], 1e-9)
        close(kept, held[f"{removal}_insertion_prob"], 1e-9)
        k = torch.from_numpy(held["bin_k"])
        for own, name in ((lost, "comprehensiveness"), (kept, "sufficiency")):
            wanted = torch.from_numpy(held[f"{removal}_{name}"])
            assert float((lost[0] - own[k] - wanted).abs().max()) < 1e-9
        mean = float((lost[0] - lost[1:]).mean())
        assert mean == pytest.approx(float(held[f"{removal}_aopc_all_k"]), abs=1e-9)
        found = scored(("deletion", {"curve": "logit"}), ("insertion", {"curve": "logit"}))
        close(found["deletion"].curve[0], held[f"{removal}_deletion_logit"], 1e-9)
        close(found["insertion"].curve[0], held[f"{removal}_insertion_logit"], 1e-9)


@pytest.mark.parametrize("net", BERTS)
def test_attention(net: str) -> None:
    held = case(f"attention_{net}")
    task = task_of(net, fixed="padding")
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "chefer": ("chefer_relevance", {}),
        "rollout": ("attention_rollout", {}),
        "rollout_max": ("attention_rollout", {"heads": "max"}),
    }
    for name, (method, how) in kinds.items():
        for query in (0, 3):
            found = explained(task, given(net, held), method, held["target"], query=query, **how)
            for sample, n in enumerate(held["lengths"]):
                close(found.attribution[sample].sum(0)[:n], held[name][sample, query, :n], 1e-8)
    found = explained(task, given(net, held), "raw_attention", held["target"], query=0)
    close(found.attribution.sum(1), held["attention_last_mean_cls"], 1e-8)


@pytest.mark.parametrize("net", BERTS)
@pytest.mark.parametrize("text", TEXTS)
def test_attnlrp(net: str, text: int) -> None:
    held = case(f"lxt_attnlrp_{net}_t{text}")
    task, raw = task_of(net, fixed="padding"), alone(net, held["ids"])
    slope = Identity(stabiliser=1e-10)  # published code divides so at activations
    for of in ("", "_second"):
        target, wanted = held[f"target{of}"], held[f"relevance{of}"]
        close(laid(explained(task, raw, "attention_lrp", target, epsilon=0))[0], wanted, 1e-7)
        how: dict[str, Any] = {"epsilon": 0, "rules": (("gelu", slope), ("tanh", slope))}
        close(laid(explained(task, raw, "attention_lrp", target, **how))[0], wanted, 1e-9)


def interpreto(name: str) -> tuple[dict[str, np.ndarray], str]:
    return case(name), "probability" if name.endswith("softmax") else "logit"


@pytest.mark.parametrize("net", BERTS)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["logits", "softmax"])
def test_quantities_of_interpreto(net: str, text: int, kind: str) -> None:
    """What it calls saliency and integrated gradients is put together of gradients here.

    Both take absolute values before they sum, and its path multiplies every gradient with the point where it
    is taken. The text-book quantities are `gradient_x_input` and `ig`.
    """
    objective = "probability" if kind == "softmax" else "logit"
    held = case(f"interpreto_occlusion_{net}_t{text}_{kind}")
    task, raw = task_of(net, fixed="padding"), alone(net, held["ids"])
    saliency = case(f"interpreto_saliency_{net}_t{text}_{kind}")
    path = case(f"interpreto_ig_{net}_t{text}_{kind}")
    lifted, alphas = task.lift(raw), torch.linspace(0, 1, 10, dtype=torch.float64)
    points = torch.cat([1e-6 + a * (lifted.x - 1e-6) for a in alphas])
    along = replace(lifted.take(torch.zeros(10, dtype=torch.long)), x=points)
    for target in range(3):
        dropped = explained(
            task, raw, "occlusion", target, units="token", removal="mask", objective=objective
        )
        close(by_position(dropped), held["exact"][target], 1e-9)
        close(by_position(dropped), held["out"][target], 1e-6)
        share = explained(task, raw, "gradient_x_input", target, objective=objective).attribution[0]
        close(share.abs().mean(0), saliency["exact"][target], 1e-9)
        shares = explained(task, along, "gradient_x_input", target, objective=objective).attribution
        close(torch.trapezoid(shares.abs().mean(1), alphas, dim=0), path["exact"][target], 1e-9)
        close(torch.trapezoid(shares.abs().mean(1), alphas, dim=0), path["out"][target], 1e-6)
        exact = explained(task, raw, "ig", target, baseline="zero", objective=objective, steps=50)
        assert exact.residual_absolute is not None
        assert float(exact.residual_absolute.abs()) < 1e-6  # the text-book's is complete
