"""Randomisation: a map should change when the model's weights or the explained class do."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from abe.checks import Count, NotNegative
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.instrument.inspection import quantised
from abe.instrument.model_check import check_weights
from abe.instrument.quantised import said
from abe.instrument.twin import plain_twin, twin
from abe.metrics.complexity import Spread
from abe.metrics.evaluation.reexplain import again, elsewhere
from abe.metrics.subsets import pearson, places
from abe.registry import metrics
from abe.sizes import ranges
from abe.spec import value
from abe.types import Card, Passes

Order = Literal["top_down", "bottom_up", "independent"]


@value
class ParameterRandomisation:
    """Similarity of the map before and after layers are randomised.

    Args:
        order: cascading from the output or from the input, or one layer at a time.
        smooth: noisy copies over which both maps are averaged; 1 for none.
        sigma: of that noise, as a fraction of the bounds' range (of 1 without bounds).
    """

    order: Order | str
    smooth: Count = 1
    sigma: NotNegative = 0.1
    processing: ClassVar[str] = "not read: the method explains again, magnitudes, channels summed"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        stages = layers(problem.task.model)
        first = _smoothed(problem, explanation, self)
        if self.order == "top_down":
            stages = stages[::-1]
        similar: list[Tensor] = []
        for k in range(len(stages)):
            chosen = stages[k : k + 1] if self.order == "independent" else stages[: k + 1]
            other = randomised(problem, chosen)
            similar.append(spearman(first, _smoothed(other, explanation, self)))
        return torch.stack(similar).mean(0)


@value
class EfficientRandomisation:
    """Relative rise of the map's entropy when the whole model is randomised."""

    processing: ClassVar[str] = "not read: the method explains again, magnitude of every element"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        other = randomised(problem, layers(problem.task.model))
        before, after = (_entropy(p, explanation) for p in (problem, other))
        return (after - before) / before.clamp_min(1e-12)


@value
class OtherClass:
    """Similarity of the maps of the explained class and of another one drawn per sample."""

    processing: ClassVar[str] = "not read: the method explains again, magnitudes, channels summed"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        everyone = problem.everyone
        classes = _classes(problem)
        keys = problem.keys(everyone, torch.zeros_like(everyone))
        shift = 1 + problem.draws.integers("metric.other_class", keys, classes - 1, (1,))[:, 0]
        other = (problem.target + shift.to(problem.target.device)) % classes
        return spearman(again(problem, explanation), again(problem.with_(target=other), explanation))


@value
class OtherLabels:
    """Similarity of the maps of the model and of one that was trained on labels drawn at random.

    Args:
        model: that model, with the same inputs and classes.
    """

    model: Any

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise SpecError(
                Code.BAD_PARAMETER,
                "Data randomisation compares with a second model",
                got=type(self.model).__name__,
                expected="an nn.Module that was trained on permuted labels",
            )

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        check_weights(self.model)
        model = twin(self.model).to(problem.x.device, problem.x.dtype).eval()
        other = elsewhere(problem, replace(problem.task, model=model))
        return spearman(again(problem, explanation), again(other, explanation))


def _classes(problem: Problem) -> int:
    outputs = problem.outputs(problem.x[:1], problem.everyone[:1])
    problem.task.check_classes(outputs, "the map of another class", apart=True)
    classes = problem.task.classes(outputs)
    if classes < 2 or outputs.ndim != 2:
        raise SpecError(Code.UNSUPPORTED, "There is no other class to explain", got=f"{classes} classes")
    return classes


def layers(model: nn.Module) -> list[str]:
    """Names of the modules with weights of their own, in order of registration; shared ones count once.

    Raises:
        SpecError: the model has no parameters, or quantised or sparse ones.
    """
    if names := quantised(model):
        raise SpecError(
            Code.UNSUPPORTED,
            "Quantised weights cannot be drawn anew",
            got=said(model, names),
            fix="Measure the model before it is quantised",
        )
    found = list(_owned(plain_twin(model)))
    if not found:
        raise SpecError(
            Code.UNSUPPORTED,
            "The model has no parameters that could be drawn anew",
            got=type(model).__name__,
            fix="Measure the model before it is frozen into constants",
        )
    for name, parameter in model.named_parameters():
        if parameter.layout != torch.strided:
            raise SpecError(
                Code.UNSUPPORTED,
                "Sparse weights cannot be drawn anew",
                got=f"{name!r}, {parameter.layout}",
                fix="Measure the model with dense weights",
            )
    return found


def _owned(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters by module and name, each at the first module that holds it."""
    met: set[nn.Parameter] = set()
    found: dict[str, dict[str, nn.Parameter]] = {}
    for name, module in model.named_modules():
        own = {short: p for short, p in module.named_parameters(recurse=False) if p not in met}
        met |= set(own.values())
        if own:
            found[name] = own
    return found


def randomised(problem: Problem, names: list[str]) -> Problem:
    """The same request for a copy of the model with the named layers drawn anew.

    Weights become normal with the standard deviation they had (1 / √n for a single value), so that
    activations keep their size; running statistics are reset. Weights are those that the layers use:
    weight norms and parametrisations are worked out first.
    """
    model = plain_twin(problem.task.model)
    modules, owned = dict(model.named_modules()), _owned(model)
    for name in names:
        for short, parameter in owned[name].items():
            drawn = problem.draws.normal(f"randomise.{name}.{short}", [(0, 0)], parameter.shape)[0]
            spread = parameter.detach().double().std(unbiased=False) if parameter.numel() > 1 else None
            size = float(spread) if spread is not None and spread > 0 else 0.1
            parameter.data.copy_(size * drawn.to(parameter))
        reset = getattr(modules[name], "reset_running_stats", None)
        if callable(reset):
            reset()
    return elsewhere(problem, replace(problem.task, model=model))


def _smoothed(problem: Problem, explanation: Any, how: ParameterRandomisation) -> Tensor:
    if how.smooth == 1:
        return again(problem, explanation)
    everyone, x = problem.everyone, problem.x
    width = 1.0 if problem.limits is None else ranges(problem.limits)
    total = torch.zeros_like(x)
    for k in range(how.smooth):
        keys = problem.keys(everyone, torch.full_like(everyone, k))
        noise = problem.draws.normal("randomise.noise", keys, x.shape[1:]).to(x)
        total += again(problem.with_(x=x + how.sigma * width * noise), explanation)
    return total / how.smooth


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """(b,) rank correlation of the magnitudes of two maps, channels summed first."""
    flat = [(m.sum(1) if m.ndim > 2 else m).double().abs().flatten(1) for m in (a, b)]
    return pearson(places(flat[0]), places(flat[1]))


def _entropy(problem: Problem, explanation: Any) -> Tensor:
    made = SimpleNamespace(attribution=again(problem, explanation))
    return Spread(what="entropy").measure(problem, made)


def _example() -> nn.Module:
    """A linear model of the law kit's inputs; made without the global generator, which is the user's."""
    head: Any = skip_init(nn.Linear, 108, 5)
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-9, 9, 540).sin().view(5, 108))
        head.bias.zero_()
    return nn.Sequential(nn.Flatten(), head)


def _times(factor: str, words: str, more: str = "") -> Passes:
    """So many times the rows of explaining once more."""
    return Passes(
        forward=f"{factor} * method_forward{more}", backward=f"{factor} * method_backward", words=words
    )


@metrics.register(
    Card(
        name="mprt",
        title="MPRT",
        source="adebayo2018",
        direction="lower",
        range="[-1, 1]",
        formula="mean over layers of Spearman(|A|, |A'|), A' of the model randomised down to that layer",
        needs=("method",),
        passes=_times("(layers + 1)", "The rows of the method, layers + 1 times."),
        differs=(
            "Weights are drawn with the standard deviation they had; the published code calls the "
            "layer's initialiser.",
            "The unchanged model is not part of the mean (in Quantus it is).",
        ),
        pitfalls=("Few classes and smooth inputs keep the floor high: read it beside plain gradients.",),
    ),
    aliases=("parameter_randomisation",),
)
def mprt(*, order: Order | str = "top_down") -> ParameterRandomisation:
    """How much of the map survives when the model's layers are randomised."""
    return ParameterRandomisation(order=order)


@metrics.register(
    Card(
        name="smooth_mprt",
        title="SMPRT",
        source="hedstrom2024",
        direction="lower",
        pitfalls=("Averaging makes all maps alike: similarities are higher than those of MPRT.",),
        range="[-1, 1]",
        formula="MPRT of the mean map over samples noisy copies, noise sigma of the bounds' range",
        needs=("method",),
        passes=_times("samples * (layers + 1)", "The rows of the method, samples · (layers + 1) times."),
        differs=("The noise is drawn from the seed, so the unchanged model correlates perfectly.",),
    )
)
def smooth_mprt(
    *, order: Order | str = "bottom_up", samples: Count = 10, sigma: float = 0.1
) -> ParameterRandomisation:
    """MPRT of maps averaged over noisy copies of the input.

    Args:
        samples: noisy copies.
        sigma: of the noise, as a fraction of the bounds' range.
    """
    return ParameterRandomisation(order=order, smooth=samples, sigma=sigma)


@metrics.register(
    Card(
        name="efficient_mprt",
        title="EMPRT",
        source="hedstrom2024",
        direction="higher",
        pitfalls=("A rise of entropy says that the map got flatter, not that it followed the model.",),
        range="[-1, inf)",
        formula="(H(A') - H(A)) / H(A), H the entropy of |A| / sum |A|, A' of the randomised model",
        needs=("method",),
        passes=_times("2", "Twice the rows of the method."),
        differs=("H is the entropy of the shares of magnitude, not of a histogram of values.",),
    )
)
def efficient_mprt() -> EfficientRandomisation:
    """Relative rise of the map's entropy when the whole model is randomised."""
    return EfficientRandomisation()


@metrics.register(
    Card(
        name="data_randomisation",
        title="DATA RAND",
        source="adebayo2018",
        direction="lower",
        range="[-1, 1]",
        formula="Spearman(|A|, |A'|), A' of a model of the same form trained on permuted labels",
        needs=("method",),
        passes=_times("2", "The rows of the method, twice."),
        pitfalls=("The second model must have learnt its labels by heart, or the test says nothing.",),
        example={"model": _example()},
    )
)
def data_randomisation(*, model: Any) -> OtherLabels:
    """Similarity of the map to that of a model trained on permuted labels.

    Args:
        model: that model, with the same inputs and classes; it is copied.
    """
    return OtherLabels(model=model)


@metrics.register(
    Card(
        name="random_logit",
        title="RAND LOGIT",
        source="sixt2020",
        direction="lower",
        pitfalls=("Classes that share evidence share maps for a good reason.",),
        range="[-1, 1]",
        formula="Spearman(|A_y|, |A_c|), c another class drawn per sample",
        needs=("method",),
        passes=_times("2", "Twice the rows of the method, and one forward row.", " + 1"),
        differs=("Rank correlation of magnitudes instead of the structural similarity.",),
    )
)
def random_logit() -> OtherClass:
    """Similarity of the map to that of another class."""
    return OtherClass()
