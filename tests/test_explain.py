"""One call: what it returns, what it counts, what it repeats, and what it leaves alone."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.errors import SpecError
from abe.explanation import versions
from abe.registry import methods
from abe.spec import from_spec, to_spec
from abe.testing.snapshot import Snapshot


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 6)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


LABELS = ["ant", "bee", "cat", "dog", "elk", "fox"]


def explain(task, raw, method="ig", **how):
    how.setdefault("progress", False)
    return abe.explain(task, raw, method, **how)


def test_everything_that_comes_back():
    model, x = Net(), torch.rand(3, 3, 5, 5)
    found = explain(abe.image_task(model, labels=LABELS), x, steps=7, seed=5, ids=["a", "b", "c"])
    with torch.no_grad():
        outputs, at_zero = model(x), model(torch.zeros(3, 3, 5, 5))
    best = outputs.argmax(1)
    assert torch.equal(found.target, best)
    assert found.target_names == [LABELS[i] for i in best]
    torch.testing.assert_close(found.score, outputs.amax(1))
    torch.testing.assert_close(found.delta, outputs.amax(1) - at_zero[range(3), best])
    assert found.names == ["sample 0", "sample 1", "sample 2"]
    assert found.method == "integrated_gradients"
    assert found.objective == "Logit"
    assert from_spec(found.spec) == abe.method("ig", steps=7)
    assert found.seed == 5
    assert len(set(found.ids)) == 3
    assert found.versions == versions()
    assert found.diagnostics["nodes"].tolist() == [7, 7, 7]
    assert found.warnings == []
    assert torch.equal(found.x, x)
    for row, top in zip(outputs.softmax(1), found.top, strict=True):
        values, indices = row.topk(5)
        assert [name for name, _ in top] == [LABELS[i] for i in indices]
        assert [p for _, p in top] == pytest.approx(values.tolist(), rel=1e-6)
    cost = found.cost
    assert (cost.forward_rows, cost.backward_rows) == (3 * 9, 3 * 7)
    assert cost.passes == 3 * 16
    assert cost.seconds > cost.model_seconds > 0
    assert cost.execution == "model"


def test_same_seed_same_map_other_seed_other_map():
    task, x = abe.image_task(Net()), torch.rand(2, 3, 5, 5)
    one = explain(task, x, "smoothgrad", samples=5, seed=1, execution="model", chunk=4)
    torch.rand(7)  # the global generator does not matter
    again = explain(task, x, "smoothgrad", samples=5, seed=1, execution="model", chunk=4)
    other = explain(task, x, "smoothgrad", samples=5, seed=2, execution="model", chunk=4)
    assert torch.equal(one.attribution, again.attribution)
    assert not torch.allclose(one.attribution, other.attribution)


@pytest.mark.parametrize("method", ["ig", "eg", "gig", "smoothgrad", "vargrad", "fig", "blur_ig"])
def test_a_row_is_the_same_alone_and_in_any_company(method):
    task, x = abe.image_task(Net().double()), torch.rand(4, 3, 5, 5).double()
    x[2] = x[0]
    ids = [11, 12, 13, 14]
    whole = explain(task, x, method, ids=ids, chunk=3)
    for order, chunk in (([0], 1), ([3, 1], 2), ([2, 0, 3], 7)):
        part = explain(task, x[order], method, ids=[ids[i] for i in order], chunk=chunk)
        torch.testing.assert_close(part.attribution, whole.attribution[order], rtol=1e-12, atol=1e-14)


def test_content_decides_the_draws_where_no_ids_are_given():
    task, x = abe.image_task(Net()), torch.rand(3, 3, 5, 5)
    whole = explain(task, x, "smoothgrad", samples=4)
    back = explain(task, x.flip(0), "smoothgrad", samples=4)
    torch.testing.assert_close(back.attribution.flip(0), whole.attribution)
    twins = explain(task, x[[0, 0]], "smoothgrad", samples=4)
    assert not torch.allclose(twins.attribution[0], twins.attribution[1]), "a copy is a sample of its own"
    torch.testing.assert_close(twins.attribution[0], whole.attribution[0])


def test_methods_as_names_pairs_values_and_engines():
    task, x = abe.image_task(Net()), torch.rand(1, 3, 5, 5)
    right = explain(task, x, "ig", steps=6)
    value = abe.method("integrated-gradients", steps=6)
    restored = from_spec(to_spec(value))
    assert restored == value
    for method in (("ig", {"steps": 6}), value, restored, value.engine):
        assert torch.equal(explain(task, x, method).attribution, right.attribution)


def test_model_is_left_as_found():
    model = nn.Sequential(Net(), nn.Dropout(0.5), nn.Linear(6, 6))
    model[0].norm.eval()
    model[2].weight.requires_grad_(False)
    model(torch.rand(4, 3, 5, 5)).sum().backward()
    model[0].conv.register_forward_hook(lambda module, args, output: output * 1.0)
    before = Snapshot(model)
    for method in ("ig", "eg", "gig", "smoothgrad"):
        explain(abe.image_task(model), torch.ones(2, 3, 5, 5) * 0.5, method)
    assert before.changes() == []


def test_progress_function_counts_rows():
    rows = []
    task, x = abe.image_task(Net()), torch.rand(2, 3, 5, 5)
    found = explain(task, x, "ig", steps=5, progress=rows.append, chunk=3)
    assert sum(rows) == found.cost.passes
    assert max(rows) <= 6


@pytest.mark.slow
def test_seconds_are_those_of_the_call():
    import time

    task, x = abe.image_task(Net()), torch.rand(2, 3, 5, 5)
    began = time.perf_counter()
    found = explain(task, x, "ig", steps=40)
    took = time.perf_counter() - began
    assert 0.5 * took <= found.cost.seconds <= took


@pytest.mark.parametrize(
    "first",
    [
        "import abe.testing",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("import abe.api", "from abe.registry import methods")
        ),
    ],
)
def test_function_stays_a_function_whatever_is_imported_first(first):
    code = f"{first}\nimport abe, inspect\nassert inspect.isfunction(abe.explain), abe.explain"
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=True)


@pytest.mark.parametrize("old", ["import abe.explain", "from abe.explain import method"])
def test_the_old_module_names_the_new_place_and_leaves_the_function(old):
    with pytest.raises(ImportError, match=r"abe\.explain is a function"):
        exec(old, {})
    assert callable(abe.explain)


@pytest.mark.parametrize(("module", "now"), [("methods", "list_methods"), ("metrics", "list_metrics")])
def test_calling_a_module_names_its_list(module, now):
    with pytest.raises(TypeError, match=rf"its list is abe\.{now}\(\)"):
        getattr(abe, module)()


def test_lists_are_filtered_by_what_the_cards_say():
    assert abe.list_methods() == methods.names()
    assert abe.list_methods("ig") == ["integrated_gradients"]
    exact = abe.list_methods(guarantees="completeness", without="draws")
    assert exact == [
        n for n, c in methods.cards().items() if "completeness" in c.guarantees and "draws" not in c.needs
    ]
    assert abe.list_attacks("p*") == ["pgd"]
    assert abe.list_metrics(needs="mask", direction="higher")
    with pytest.raises(SpecError, match="attention"):
        abe.list_methods(family="atention")


def test_ensemble_smooth_and_postprocess():
    task, x = abe.image_task(Net().double()), torch.rand(2, 3, 5, 5).double()
    one, two = explain(task, x, "ig"), explain(task, x, "gradient")

    def unit(a: Tensor) -> Tensor:
        return a / a.abs().flatten(1).sum(1).view(-1, 1, 1, 1)

    both = explain(task, x, abe.ensemble("ig", "gradient"))
    torch.testing.assert_close(both.attribution, (unit(one.attribution) + unit(two.attribution)) / 2)
    assert both.residual is None
    positive = explain(task, x, abe.postprocess("gradient", "positive", "unit_max"))
    kept = two.attribution.clamp_min(0)
    torch.testing.assert_close(positive.attribution, kept / kept.flatten(1).amax(1).view(-1, 1, 1, 1))
    smooth = explain(task, x, abe.smooth("gradient", samples=5), ids=[1, 2])
    named = explain(task, x, "smoothgrad", samples=5, ids=[1, 2])
    torch.testing.assert_close(smooth.attribution, named.attribution)
    deep = abe.postprocess(abe.smooth(("ig", {"steps": 3}), samples=2), "absolute")
    assert from_spec(to_spec(deep)) == deep
    assert (explain(task, x, deep).attribution >= 0).all()


@pytest.mark.parametrize(
    "method", ["ig", "lrp_epsilon", "deep_taylor", "deeplift", "eigen_cam", "kernel_shap"]
)
def test_a_model_of_half_precision_is_explained_as_its_float32_twin(method):
    model, x = Net(), torch.rand(2, 3, 5, 5).bfloat16()
    how = {"layer": "conv"} if method.endswith("cam") else {}
    whole = explain(abe.image_task(model), x.float(), method, target=1, **how).attribution
    half = explain(abe.image_task(model.bfloat16()), x, method, target=1, **how).attribution
    assert half.dtype == torch.bfloat16
    assert bool((torch.cosine_similarity(half.float().flatten(1), whole.flatten(1)) > 0.98).all())
