"""The one result type: maps with everything needed to trust, repeat and store them."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from abe import arrays, storage
from abe._version import __version__
from abe.checks import finite
from abe.errors import Code, InputError
from abe.task.targets import fitted, numbers_of
from abe.types import Cost, Features, Part, PerSample

KIND = "explanation"
Maps = Float[Tensor, "b *m"]
"""Of the inputs' shape, or with one channel."""


@dataclass(eq=False, kw_only=True)
class Explanation:
    """Attributions of a batch with their provenance.

    Attributes:
        attribution: (b, *f) positive supports the decision; a map from elsewhere may have one channel.
        x: (b, *f) the explained inputs, in the task's bounds; at a layer, its activation.
        target: (b,) or (b, m) the explained outputs.
        target_names: names of the explained classes.
        names: names of the samples.
        method: name of the method.
        spec: method and parameters, JSON-able.
        objective: name of the explained score.
        score: (b,) that score at the inputs.
        delta: (b,) score(input) − score(reference) that the attribution should sum to, or None.
        standard_error: (b, *f) for stochastic methods, or None.
        top: per sample, the highest classes as (name, probability).
        cost: model rows, calls and seconds.
        warnings: notes with codes.
        seed: of all draws.
        ids: identities of the samples that the draws depend on.
        versions: of ABE, PyTorch and Python.
        diagnostics: per-sample extras of the method, such as ``nodes``.
        modality: of the task.
        parts: where the explained inputs lie in ``attribution`` and ``x``, for a model with several.
    """

    attribution: Maps
    x: Features
    target: Tensor
    target_names: list[str]
    names: list[str]
    method: str
    spec: Mapping[str, Any]
    objective: str
    score: PerSample
    delta: PerSample | None = None
    standard_error: Maps | None = None
    top: list[list[tuple[str, float]]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    warnings: list[str] = field(default_factory=list)
    seed: int = 0
    ids: Sequence[int] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    modality: str = "image"
    parts: tuple[Part, ...] = ()

    @cached_property
    def residual(self) -> PerSample | None:
        """(b,) what completeness misses: (delta − Σ attribution) / |delta|; None without a claim.

        Where the score does not change at all, 0 if the map sums to 0 as well and infinite if not.
        """
        if self.delta is None:
            return None
        missed = self.delta.double() - self.attribution.double().flatten(1).sum(1)
        return torch.where(missed == 0, torch.zeros_like(missed), missed / self.delta.abs().double())

    @property
    def residual_absolute(self) -> PerSample | None:
        """(b,) delta − Σ attribution, in units of the score."""
        if self.delta is None:
            return None
        return self.delta.double() - self.attribution.double().flatten(1).sum(1)

    @property
    def shape(self) -> torch.Size:
        """Shape of the attribution."""
        return self.attribution.shape

    def unpack(self) -> dict[str | int, Tensor]:
        """(b, *shape) the attribution of every explained input by its name; 0 names the only one."""
        return {part.name: part.of(self.attribution) for part in self.parts} or {0: self.attribution}

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The attribution as a NumPy array, so that ``np.asarray(explanation)`` works."""
        array = self.attribution.detach().cpu().numpy()
        return array.astype(dtype, copy=False) if dtype is not None else array

    def __len__(self) -> int:
        return len(self.attribution)

    def __getitem__(self, index: int | slice) -> "Explanation":
        """The explanation of one sample, or of some in a row."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"sample {index} of {len(self)}")
            index = slice(index % len(self), index % len(self) + 1)
        per_sample = {k: v[index] for k, v in self._tensors().items()}
        diagnostics = {k.removeprefix("diagnostic."): v for k, v in per_sample.items() if "diagnostic." in k}
        core = {k: v for k, v in per_sample.items() if "diagnostic." not in k}
        return Explanation(
            **core,
            diagnostics=diagnostics,
            target_names=self.target_names[index],
            names=self.names[index],
            top=self.top[index],
            ids=self.ids[index],
            **self._shared(),
        )

    def map(self, reduce: Literal["sum", "abs", "max"] = "sum") -> Float[Tensor, "b ..."]:
        """(b, h, w) one number per position: channels summed, summed in absolute value, or the largest.

        Inputs without a channel axis, (b, d), come back as they are.
        """
        if self.attribution.ndim < 3:
            return self.attribution
        if reduce == "sum":
            return self.attribution.sum(1)
        return self.attribution.abs().sum(1) if reduce == "abs" else self.attribution.abs().amax(1)

    def plot(self, path: str | Path | None = None) -> Any:
        """A figure of photographs, maps and top classes; also written to ``path`` if given."""
        from abe.report.figures import plot_explanation

        return plot_explanation(self, path=path)

    def save(self, folder: str | Path) -> Path:
        """Write tensors (safetensors) and a JSON manifest; an explanation already there survives a failure.

        Raises:
            StorageError: the folder cannot be written, or holds an ``explanation.json`` of something
                else; what stood there before is untouched.
        """
        return storage.save(folder, KIND, self._manifest(), self._tensors())

    @classmethod
    def load(cls, folder: str | Path) -> "Explanation":
        """Read what `save` wrote. Nothing is unpickled; contents are checked against their digest.

        Raises:
            StorageError: missing, damaged, or written by something else.
        """
        manifest, tensors = storage.load(folder, KIND)
        try:
            return cls._restore(manifest, tensors)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise storage.damaged(folder, KIND, problem) from problem

    @classmethod
    def from_array(
        cls,
        maps: Any,
        x: Any,
        *,
        target: Any,
        name: str = "foreign",
        layout: arrays.Layout = "auto",
        names: Sequence[str] | None = None,
        ids: Sequence[int] | None = None,
        modality: str = "image",
    ) -> "Explanation":
        """Maps that something else made: an array or tensor, a file, or what captum, shap or inseq return.

        Args:
            maps: an array of the inputs' shape, with one channel, without channels, or with channels last;
                one such array per class (a list, or classes on a last axis), of which the target's is
                taken; a ``shap.Explanation``; an inseq output; or a path to ``.npy``, ``.npz`` or
                ``.safetensors`` (nothing is unpickled).
            x: (b, *f) the explained inputs, in the task's bounds.
            target: the explained class, one for all or one each.
            name: what to call them.
            layout: which axis holds the channels, where the shape alone does not say.
            names: of the samples.
            ids: identities the draws depend on; by default each sample's content.
            modality: of the task.

        Raises:
            InputError: another shape, NaN, or a file that says it belongs to other samples.
            StorageError: a file that cannot be read.

        Example:
            >>> import numpy as np
            >>> given = Explanation.from_array(np.ones((2, 4, 4, 3)), torch.rand(2, 3, 4, 4), target=0)
            >>> given.shape
            torch.Size([2, 3, 4, 4])
        """
        inputs = torch.as_tensor(x)
        each = fitted(numbers_of(target), len(inputs), free=True)
        return cls(
            attribution=arrays.as_map(maps, inputs, target=each, layout=layout),
            x=inputs,
            target=each,
            target_names=[str(t) for t in each.tolist()],
            names=[f"sample {i}" for i in range(len(inputs))] if names is None else list(names),
            method=name,
            spec={"foreign": name},
            objective="",
            score=torch.full((len(inputs),), torch.nan),
            top=[[] for _ in range(len(inputs))],
            ids=[] if ids is None else list(ids),
            versions=versions(),
            modality=modality,
        )

    @classmethod
    def join(cls, parts: "Sequence[Explanation]") -> "Explanation":
        """One explanation of the samples of several, by the same method and of the same shape, in order.

        Raises:
            InputError: nothing, other methods or parameters, or inputs of different shapes.
        """
        kinds = {repr((p.spec, p.objective, p.modality, tuple(p.x.shape[1:]))) for p in parts}
        if len(kinds) != 1:
            raise InputError(
                Code.SHAPE,
                "Only explanations of one kind can be joined",
                got=f"{len(kinds)} kinds: {', '.join(sorted(kinds))[:200]}" if kinds else "none",
                expected="the same method, parameters, score and input shape",
            )
        held = [p._tensors() for p in parts]
        common = [name for name in held[0] if all(name in tensors for tensors in held)]
        whole: dict[str, Any] = {name: torch.cat([tensors[name] for tensors in held]) for name in common}
        cost = Cost()
        for p in parts:
            cost.add(p.cost)
        diagnostics = {k.removeprefix("diagnostic."): whole.pop(k) for k in common if "diagnostic." in k}
        told: dict[str, Any] = {
            **whole,
            **parts[0]._shared(),
            "cost": cost,
            "warnings": list(dict.fromkeys(w for p in parts for w in p.warnings)),
        }
        return cls(
            **told,
            diagnostics=diagnostics,
            target_names=[n for p in parts for n in p.target_names],
            names=[n for p in parts for n in p.names],
            top=[row for p in parts for row in p.top],
            ids=[i for p in parts for i in p.ids],
        )

    def _tensors(self) -> dict[str, Tensor]:
        found = {
            "attribution": self.attribution,
            "x": self.x,
            "target": self.target,
            "score": self.score,
            "delta": self.delta,
            "standard_error": self.standard_error,
        }
        found |= {f"diagnostic.{k}": v for k, v in self.diagnostics.items()}
        return {k: v for k, v in found.items() if v is not None}

    def _shared(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "spec": self.spec,
            "objective": self.objective,
            "cost": self.cost,
            "warnings": list(self.warnings),
            "seed": self.seed,
            "versions": dict(self.versions),
            "modality": self.modality,
            "parts": self.parts,
        }

    def _manifest(self) -> dict[str, Any]:
        residual = self.residual
        return {
            **self._shared(),
            "cost": asdict(self.cost),
            "parts": [asdict(part) for part in self.parts],
            "names": self.names,
            "target_names": self.target_names,
            "top": self.top,
            "ids": list(self.ids),
            "residual": None if residual is None else [_json_number(r) for r in residual.tolist()],
        }

    @classmethod
    def _restore(cls, manifest: Mapping[str, Any], tensors: dict[str, Tensor]) -> "Explanation":
        diagnostics = {
            k.removeprefix("diagnostic."): tensors.pop(k)
            for k in sorted(tensors)
            if k.startswith("diagnostic.")
        }
        plain = ("method", "spec", "objective", "warnings", "seed", "ids", "versions", "modality")
        for name in ("names", "target_names", "top", "ids"):
            if manifest[name] and len(manifest[name]) != len(tensors["attribution"]):
                raise ValueError(f"{len(manifest[name])} {name} for {len(tensors['attribution'])} samples")
        return cls(
            **tensors,
            diagnostics=diagnostics,
            names=manifest["names"],
            target_names=manifest["target_names"],
            top=[[(name, float(p)) for name, p in row] for row in manifest["top"]],
            cost=Cost(**manifest["cost"]),
            parts=tuple(Part.read(part) for part in manifest.get("parts", ())),
            **{k: manifest[k] for k in plain},
        )


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"abe": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def check_map(attribution: Tensor, x: Tensor) -> None:
    """Refuse a map that is not of these inputs or not finite.

    Raises:
        InputError: another shape, NaN or infinity.
    """
    if attribution.shape != x.shape:
        raise InputError(
            Code.MAP_SHAPE,
            "The method returned a map of another shape",
            got=str(tuple(attribution.shape)),
            expected=str(tuple(x.shape)),
        )
    if not finite(attribution):
        raise InputError(Code.MAP_NOT_FINITE, "The method returned NaN or infinity")


def _json_number(number: float) -> float | str:
    return number if abs(number) != float("inf") and number == number else str(number)
