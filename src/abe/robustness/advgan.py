"""AdvGAN: a generator trained on the user's samples makes a perturbation in one pass.

    min_G  (D(x + δ) − 1)² + c_adv max(p_y − max_{j≠y} p_j, 0) + c_size ‖G(x)‖₂,   δ = clip(G(x), ±ε)

D learns to tell samples from perturbed samples (least squares). The checkpoint is a safetensors file
with both networks, both optimisers and the settings; training goes on where it was interrupted.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from abe import schema, storage
from abe.checks import Count, Positive, Size, check_reach, need_image
from abe.engines.learn.resume import put_back, state_of
from abe.engines.path.step import Point, State
from abe.engines.runtime.request import running
from abe.engines.runtime.stored import described, write
from abe.errors import Code, InputError, SpecError, StorageError
from abe.objectives import gather
from abe.registry import updates
from abe.spec import value
from abe.task.base import Task
from abe.task.start import Given, entrance
from abe.types import Card

FORMAT = "abe-advgan-1"
WEIGHT, MOMENT = "{}.{{}}", "adam.{}.{{}}.{{}}"
"""Names of a checkpoint's tensors, as formats of the network's name."""
SMALLEST_BATCH = 2
WEIGHTS = {"adversarial": 10.0, "size": 1.0, "real": 1.0}
"""Weights of the generator's three terms, as in the published code."""


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What a checkpoint says of its training: everything that going on depends on, and the passes made."""

    format: Literal["abe-advgan-1"] = FORMAT
    shape: list[Count]
    eps: Size
    batch: Count
    rate: Size
    seed: int
    epoch: schema.Natural = 0


class Generator(nn.Module):
    """Three convolutions, residual blocks, and back; an image of any size is padded to a multiple of 4."""

    def __init__(self, channels: int, blocks: int = 4) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            skip_init(nn.Conv2d, a, b, 3, stride=s, padding=1)
            for a, b, s in ((channels, 8, 1), (8, 16, 2), (16, 32, 2))
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(skip_init(nn.Conv2d, 32, 32, 3, padding=1) for _ in range(2)) for _ in range(blocks)
        )
        self.up = nn.ModuleList(
            skip_init(nn.Conv2d, a, b, 3, padding=1) for a, b in ((32, 16), (16, 8), (8, channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) unbounded perturbations, each from its own row."""
        h, w = x.shape[-2:]
        y = F.pad(x, (0, -w % 4, 0, -h % 4), mode="replicate")
        for layer in self.down:
            y = F.relu(F.instance_norm(layer(y)))
        for first, second in self.blocks:  # type: ignore[misc]
            y = y + F.instance_norm(second(F.relu(F.instance_norm(first(y)))))
        for layer in list(self.up)[:2]:
            y = F.relu(F.instance_norm(layer(F.interpolate(y, scale_factor=2.0))))
        return torch.tanh(self.up[2](y))[..., :h, :w]


class Discriminator(nn.Module):
    """Three strided convolutions and the mean of what they say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            skip_init(nn.Conv2d, a, b, 3, stride=2, padding=1) for a, b in ((channels, 8), (8, 16), (16, 32))
        )
        self.head = skip_init(nn.Conv2d, 32, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n,) 1 for a sample, 0 for a perturbed one."""
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return self.head(x).flatten(1).mean(1)


@updates.register(
    Card(
        name="advgan",
        title="AdvGAN",
        source="xiao2018",
        formula="x ← clip(x₀ + clip(G(x₀), ±ε))",
        family="generative attack",
        needs=("image", "training data"),
        differs=(
            "The generator's output is scaled to ε before it is clipped, its shape fits any image, and the "
            "learning rate is not dropped.",
        ),
        pitfalls=("It learns one direction of attack for the data at hand; train it on the kind attacked.",),
    )
)
@value
class AdvGAN:
    """The perturbation of a generator that was trained on samples of the user.

    As the path of an attribution it is reached in equal parts over the steps.

    Args:
        checkpoint: file written by `train_advgan`.
        eps: radius in input units; None for that of the training.
    """

    checkpoint: str
    eps: Size | None = None

    def __post_init__(self) -> None:
        _read(storage.as_path(self.checkpoint))

    @property
    def steps(self) -> int:
        """One: the perturbation comes at once."""
        return 1

    @property
    def stochastic(self) -> bool:
        """Nothing is drawn."""
        return False

    def reads_gradient(self, step: int) -> bool:
        """Never."""
        return False

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The next equal part of the way to the perturbed image."""
        change = state.get("perturbation")
        if change is None:
            change = self._perturbation(point.start, point.bounds)
            state = {**state, "perturbation": change}
        return point.clip(point.start + change * ((point.step + 1) / point.steps)), state

    def _perturbation(self, x: Tensor, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
        settings, tensors = _read(storage.as_path(self.checkpoint))
        if list(x.shape[1:]) != settings.shape:
            raise InputError(
                Code.SHAPE,
                "The generator was trained on inputs of another shape",
                got=str(tuple(x.shape[1:])),
                expected=str(tuple(settings.shape)),
            )
        generator = Generator(x.shape[1])
        weights = {k.removeprefix("g."): v for k, v in tensors.items() if k.startswith("g.")}
        try:
            shapes = {name: tuple(p.shape) for name, p in generator.named_parameters()}
            schema.need(set(shapes) == set(weights), "it holds other networks")
            for name, shape in shapes.items():
                schema.need_tensor(name, weights[name], shape)
        except schema.MisfitError as problem:
            raise _damaged(self.checkpoint, problem) from problem
        generator.load_state_dict(weights)
        generator.to(x)
        eps = settings.eps if self.eps is None else self.eps
        check_reach(bounds, x.shape[1:], eps=eps)
        with torch.no_grad():
            rows = [generator(row[None]) for row in x]  # one by one: a row's rounding is its own
        return (torch.cat(rows) * eps).clamp(-eps, eps)


@entrance
def train_advgan(
    task: Given,
    data: Any,
    checkpoint: str | Path,
    *,
    eps: Size = 0.3,
    epochs: Count = 60,
    batch: Count = 32,
    rate: Positive = 1e-3,
    seed: int = 0,
) -> AdvGAN:
    """Train a generator against ``task`` on ``data``, or go on where ``checkpoint`` was left.

    The checkpoint is replaced after every epoch in one step, so an interrupted training loses one epoch
    at most, and gives the same generator as one that was not interrupted.

    Args:
        task: the model to fool; left as found.
        data: samples (n, c, h, w) in the task's bounds, or an iterable of batches of them, alone or first
            in a tuple. The labels are the model's predictions.
        checkpoint: file to write, and to go on from where it exists.
        eps: radius in input units.
        epochs: passes over the data in all.
        batch: samples at a time.
        rate: learning rate of Adam.
        seed: of weights and of the order of samples.

    Returns:
        The update that uses the checkpoint.

    Raises:
        InputError: no data, or too little for one batch.
        StorageError: the checkpoint is no checkpoint, or belongs to another training.
    """
    x = _samples(task, data)
    check_reach(task.limits, x.shape[1:], eps=eps)
    asked = _Settings(
        shape=list(x.shape[1:]), eps=float(eps), batch=int(batch), rate=float(rate), seed=int(seed)
    )
    path = storage.as_path(checkpoint)
    with running(task):
        labels = _labels(task, x)
        training = _Training(task, x, labels, asked)
        if path.exists():
            training.resume(path)
        for epoch in range(training.epoch, epochs):
            training.run(epoch)
            training.save(path)
    return AdvGAN(checkpoint=str(path))


class _Training:
    """Both networks with their optimisers; an epoch depends on nothing but them and its number."""

    def __init__(self, task: Task, x: Tensor, labels: Tensor, settings: _Settings) -> None:
        self.task, self.x, self.labels, self.settings = task, x, labels, settings
        self.epoch = 0
        generator = torch.Generator().manual_seed(settings.seed)
        self.nets = {"g": Generator(x.shape[1]), "d": Discriminator(x.shape[1])}
        for net in self.nets.values():
            _fill(net, generator)
            net.to(x)
        self.adam = {k: torch.optim.Adam(n.parameters(), lr=settings.rate) for k, n in self.nets.items()}

    def run(self, epoch: int) -> None:
        """One pass over the data in the order of its number."""
        order = torch.randperm(
            len(self.x), generator=torch.Generator().manual_seed(self.settings.seed * 100003 + epoch + 1)
        )
        for rows in order.split(self.settings.batch):
            if len(rows) >= SMALLEST_BATCH:
                self._batch(self.x[rows], self.labels[rows])
        self.epoch = epoch + 1

    def _batch(self, x: Tensor, labels: Tensor) -> None:
        eps, bounds = self.settings.eps, self.task.limits
        raw = self.nets["g"](x) * eps
        fake = x + raw.clamp(-eps, eps)
        if bounds is not None:
            fake = torch.clamp(fake, bounds[0].to(x), bounds[1].to(x))
        self._down(
            "d", (self.nets["d"](x) - 1).square().mean() + self.nets["d"](fake.detach()).square().mean()
        )
        log_p, own = self.task.chances(self.task.forward(fake), labels)
        chances = log_p.exp()
        others = chances.scatter(1, own[:, None], 0.0).amax(1)
        terms = {
            "real": (self.nets["d"](fake) - 1).square().mean(),
            "adversarial": (gather(chances, own) - others).clamp_min(0).mean(),
            "size": raw.flatten(1).norm(dim=1).mean() / raw[0].numel() ** 0.5,
        }
        self._down("g", torch.stack([WEIGHTS[k] * v for k, v in terms.items()]).sum())

    def _down(self, which: str, loss: Tensor) -> None:
        self.adam[which].zero_grad()
        parameters = list(self.nets[which].parameters())
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = slope
        self.adam[which].step()

    def save(self, path: Path) -> None:
        """Replace the checkpoint in one step."""
        tensors: dict[str, Tensor] = {}
        for which, net in self.nets.items():
            tensors |= state_of(
                net, self.adam[which], weight=WEIGHT.format(which), moment=MOMENT.format(which)
            )
        write(path, tensors, asdict(replace(self.settings, epoch=self.epoch)), FORMAT)

    def resume(self, path: Path) -> None:
        """Take everything from the checkpoint."""
        settings, tensors = _read(path)
        found, asked = asdict(replace(settings, epoch=0)), asdict(self.settings)
        different = [k for k in asked if found[k] != asked[k]]
        if different:
            k = different[0]
            raise StorageError(
                Code.FOREIGN_FILE,
                "The checkpoint belongs to another training",
                got=f"{k} = {found[k]}",
                expected=f"{k} = {asked[k]}",
                fix="Choose another file, or the same settings",
            )
        try:
            for which, net in self.nets.items():
                names = {"weight": WEIGHT.format(which), "moment": MOMENT.format(which)}
                put_back(net, self.adam[which], tensors, **names)
        except schema.MisfitError as problem:
            raise _damaged(path, problem) from problem
        self.epoch = settings.epoch


def _samples(task: Task, data: Any) -> Tensor:
    """(n, c, h, w) all samples of a tensor or of an iterable of batches, checked."""
    if not isinstance(data, Tensor):
        if data is None or isinstance(data, str) or not isinstance(data, Iterable):
            raise _too_little(type(data).__name__)
        found = [item[0] if isinstance(item, tuple | list) else item for item in data]
        if not found or not all(isinstance(item, Tensor) for item in found):
            raise _too_little("nothing" if not found else type(found[0]).__name__)
        data = torch.cat([item if item.ndim == 4 else item[None] for item in found])
    if data.ndim == 0 or len(data) < SMALLEST_BATCH:
        raise _too_little(f"{0 if data.ndim == 0 else len(data)} samples")
    need_image("AdvGAN", data)
    x = data.detach().to(task.device)
    task.check(x)
    return x


def _too_little(got: str) -> InputError:
    return InputError(
        Code.TRAINING_DATA,
        "A generator cannot be trained on this",
        got=got,
        expected=f"at least {SMALLEST_BATCH} samples (n, c, h, w), a few hundred to be of use",
    )


def _labels(task: Task, x: Tensor) -> Tensor:
    """(n,) the model's predictions."""
    found: list[Tensor] = []
    with torch.no_grad():
        for rows in x.split(32):
            outputs = task.forward(rows)
            if not isinstance(outputs, Tensor) or outputs.ndim != 2 or task.classes(outputs) < 2:
                raise SpecError(
                    Code.UNSUPPORTED, "AdvGAN needs a model with at least two classes", got="other outputs"
                )
            found.append(task.predicted(outputs))
    return torch.cat(found)


def _fill(net: nn.Module, generator: torch.Generator) -> None:
    """Weights of a seed, uniform within ±1/√fan-in; the global generator is the user's."""
    for parameter in net.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else len(parameter)
        with torch.no_grad():
            parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) / fan**0.5)


def _read(path: Path) -> tuple[_Settings, dict[str, Tensor]]:
    """Settings and tensors of a checkpoint; those of earlier versions have no digest."""
    if not path.exists():
        raise StorageError(
            Code.CORRUPT_FILE,
            "There is no trained generator",
            got=str(path),
            fix="Train one with abe.robustness.train_advgan(task, data, checkpoint)",
        )
    metadata, tensors = storage.read_tensors(path)
    told = described(path, metadata, tensors, digested="digest" in metadata) if "abe" in metadata else {}
    if told.get("format") != FORMAT:
        raise StorageError(Code.FOREIGN_FILE, "This is no checkpoint of AdvGAN", got=str(path))
    try:
        return schema.read(_Settings, told, "settings"), tensors
    except schema.MisfitError as problem:
        raise _damaged(path, problem) from problem


def _damaged(path: str | Path, problem: schema.MisfitError) -> StorageError:
    return StorageError(
        Code.CORRUPT_FILE,
        "The checkpoint is damaged, or belongs to another training",
        got=f"{path}: {problem}",
    )
