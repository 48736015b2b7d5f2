"""The one result type: maps with everything needed to trust, repeat and store them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from abe import arrays, schema, storage, words
from abe.errors import Code, InputError
from abe.per_sample import follow, joined, json_number, kind_of, numbered_anew, of_one_length, picked
from abe.provenance import check_map as check_map
from abe.provenance import versions as versions
from abe.stored_maps import DIAGNOSTIC, check_stored
from abe.task.targets import fitted, numbers_of
from abe.types import Cost, Features, Part, PerSample
from abe.units.arrival import sums_over

if TYPE_CHECKING:
    from abe.generated import Generated

KIND = "explanation"
WRITTEN = (
    *("method", "spec", "objective", "cost", "warnings", "seed", "versions", "modality", "parts", "unit"),
    *("channels", "names", "target_names", "top", "unit_names", "token_names", "shown", "ids", "blank_names"),
)
"""Fields that a saved manifest holds; the others are tensors."""
Maps = Float[Tensor, "b *m"]
"""Of the inputs' shape, or with one channel."""

PICTURES = ("image", "segmentation", "detection")
"""Modalities whose samples are photographs."""
OUTSIDE = "(fixed)"
"""What `Explanation.by_unit` calls all positions that are in no unit."""

PER_SAMPLE = (
    *(
        "attribution",
        "x",
        "target",
        "target_names",
        "names",
        "score",
        "delta",
        "standard_error",
        "top",
        "ids",
        "labels",
        "unit_names",
        "token_labels",
        "token_names",
        "shown",
    ),
    "diagnostics",
)
"""What `Explanation` holds once for every sample; the rest is about all of them."""


@dataclass(eq=False, kw_only=True, repr=False)
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
        unit: what the natural units are called, such as ``"word"``; nothing where positions have no names.
        labels: (b, 1 or c, *positions) the unit of every position, -1 for what is fixed; or None.
        unit_names: per sample, the names of its units.
        token_labels: of texts, like ``labels`` the token of every position, -1 for special ones; or None.
        token_names: of texts, per sample what its tokens are called.
        shown: per sample, what a person sees instead of ``x``, such as the text.
        blank, blank_names: (k, *f) inputs without a sample, as nothing was found in them to explain; or None.
        channels: axis of what belongs together at a position: 1, as in all features; −1 where the numbers
            were given back in the axes of a batch (b, t, d), as by `abe.ExplanationTask`.
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
    unit: str = ""
    labels: Tensor | None = None
    unit_names: list[list[str]] = field(default_factory=list[list[str]])
    token_labels: Tensor | None = None
    token_names: list[list[str]] = field(default_factory=list[list[str]])
    shown: list[Any] = field(default_factory=list[Any])
    channels: Literal[1, -1] = 1
    blank: Tensor | None = None
    blank_names: list[str] = field(default_factory=list[str])

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

    def by_unit(self) -> list[list[tuple[str, float]]]:
        """Per sample, every natural unit's name with the sum of the map over it, in order.

        What a method gives to positions that are in no unit, such as special tokens, comes last as
        ``"(fixed)"`` where it is not 0, so that the sum is that of the map.

        Raises:
            InputError: positions have no names, as in images.
        """
        if self.labels is None:
            raise InputError(
                Code.UNITS,
                "The positions of these inputs have no names",
                got=f"inputs of the modality {self.modality!r}",
                fix="Use map(), one number per position, or a method with units=",
            )
        return self._told(self.labels, self.unit_names)

    @property
    def tokens(self) -> list[list[tuple[str, float]]]:
        """Per text, every token with the sum of the map over its vector, in order; words are in `by_unit`.

        What a method gives to special tokens and padding comes last as ``"(fixed)"`` where it is not 0.

        Raises:
            InputError: nothing of these inputs is a text.
        """
        if self.token_labels is None:
            raise InputError(
                Code.UNITS,
                "These inputs have no tokens",
                got=f"inputs of the modality {self.modality!r}",
                expected="a text",
                fix="Use by_unit(), or map(), one number per position"
                if self.labels is None
                else "Use by_unit()",
            )
        return self._told(self.token_labels, self.token_names)

    def _told(self, labels: Tensor, called: list[list[str]]) -> list[list[tuple[str, float]]]:
        """Per sample, names with the sums over what is labelled so, and the rest as `OUTSIDE`."""
        found: list[list[tuple[str, float]]] = []
        for names, (own, rest) in zip(called, sums_over(labels, self.attribution), strict=True):
            listed = list(zip(names, own.tolist(), strict=True))
            found.append([*listed, (OUTSIDE, rest)] if rest else listed)
        return found

    def part(self, name: str | int) -> Tensor:
        """(b, *shape) the attribution of one explained input of a model with several.

        Raises:
            InputError: there is no such input.
        """
        blocks = self.unpack()
        if name not in blocks:
            raise InputError(
                Code.SHAPE,
                f"No explained input is called {name!r}",
                expected=", ".join(map(repr, blocks)),
            )
        return blocks[name]

    def only(self, name: str | int) -> "Explanation":
        """The explanation of one of several explained inputs, to print, plot and ask for its units.

        It holds that input's part of the map and claims no sum, as the score's change is that of all inputs.

        Raises:
            InputError: there is no such input.
        """
        own: dict[str, Any] = {"attribution": self.part(name)}
        if not self.parts:
            return self[:]
        for field_ in ("x", "standard_error"):
            packed = getattr(self, field_)
            own[field_] = None if packed is None else self.unpack(packed)[name]
        for labels, names in (("labels", "unit_names"), ("token_labels", "token_names")):
            packed = getattr(self, labels)
            if packed is not None:
                block = self.unpack(packed.expand(len(self), self.x.shape[1], *packed.shape[2:]))[name]
                own[labels], own[names] = numbered_anew(block, getattr(self, names), f"{name} ")
        shown = [one.get(name, one.get(str(name))) if isinstance(one, Mapping) else one for one in self.shown]
        own["shown"] = [] if None in shown else shown
        return replace(self, **own, delta=None, parts=(), warnings=list(self.warnings))

    def unpack(self, packed: Tensor | None = None) -> dict[str | int, Tensor]:
        """(b, *shape) the attribution of every explained input by its name; 0 names the only one.

        Args:
            packed: what else lies as the attribution does, such as ``x``.
        """
        whole = self.attribution if packed is None else packed
        return {part.name: part.of(whole) for part in self.parts} or {0: whole}

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The attribution as a NumPy array, so that ``np.asarray(explanation)`` works."""
        array = arrays.to_numpy(self.attribution)
        return array.astype(dtype, copy=False) if dtype is not None else array

    def __len__(self) -> int:
        return len(self.attribution)

    def __getitem__(self, index: Any) -> "Explanation":
        """The explanation of some samples, or of one, which keeps its batch axis.

        Args:
            index: what picks from an array of one axis in NumPy: a number, a slice, a list or array of
                numbers, or a mask.

        Raises:
            SampleError: there is no such sample, or this is no index; an ``IndexError`` too.
        """
        rows = picked(index, len(self))
        run = range(rows[0], rows[0] + len(rows)) if rows else range(0)
        at: Any = slice(run.start, run.stop) if rows == list(run) else torch.tensor(rows)
        return replace(
            self,
            **{name: follow(getattr(self, name), rows, at, len(self)) for name in PER_SAMPLE},
            warnings=list(self.warnings),
            versions=dict(self.versions),
        )

    def __repr__(self) -> str:
        b, residual = len(self), type(self).residual.func(self)  # not kept: maps may still be filled in
        params = ", ".join(f"{k}={v!r}" for k, v in dict(self.spec.get("params", {})).items())
        told = [
            ("samples", words.some(self.names)),
            ("targets", words.some(self.target_names)),
            ("attribution", words.shape(self.attribution)),
            (f"score {self.objective}".strip(), words.numbers(self.score)),
            ("residual", "completeness is not claimed" if residual is None else words.numbers(residual)),
            ("standard error", "" if self.standard_error is None else "in .standard_error"),
        ]
        title = f"Explanation of {b} sample{'' if b == 1 else 's'} by {self.method}({params})"
        return words.card(title, told, self.warnings)

    def map(self, reduce: Literal["sum", "abs", "max"] = "sum") -> Float[Tensor, "b ..."]:
        """(b, h, w) one number per position: channels summed, summed in absolute value, or the largest.

        Inputs without a channel axis, (b, d), come back as they are.
        """
        if self.attribution.ndim < 3:
            return self.attribution
        if reduce == "sum":
            return self.attribution.sum(self.channels)
        size = self.attribution.abs()
        return size.sum(self.channels) if reduce == "abs" else size.amax(self.channels)

    def to_frame(self) -> Any:
        """A pandas DataFrame with a line per sample and unit: ``sample``, ``unit``, ``value``.

        For a stochastic method also ``standard_error``, NaN where the errors of a unit's numbers do not tell
        that of their sum.

        Raises:
            PackageError: pandas is not installed.
            InputError: positions have no names, as in images.
        """
        from abe.report.frames import frame

        return frame(self)

    def table(self, prompt: int | None = None) -> "Generated":
        """Of a language model: every generated token (rows) by what it rests on (columns), to print and plot.

        Args:
            prompt: which, where there are several.

        Raises:
            InputError: nothing was generated, or it is not clear of which prompt.
        """
        from abe.generated import Generated

        return Generated.of(self, prompt)

    @property
    def steps(self) -> dict[str, Tensor]:
        """Of a language model: (b,) ``"probability"`` of every generated token, ``"entropy"`` in nats.

        Raises:
            InputError: nothing was generated.
        """
        from abe.generated import steps

        return steps(self)

    def __str__(self) -> str:
        """Words in colours or with their numbers, bars of columns, and how the score is made up."""
        from abe.report.printed import text_of

        return repr(self) if self.modality in PICTURES else text_of(self)

    def plot(self, path: str | Path | None = None) -> Any:
        """A figure of what is explained, the map and the top classes; also written to ``path`` if given."""
        from abe.report.figures import plot_explanation

        return plot_explanation(self, path=path)

    def save(self, folder: str | Path) -> Path:
        """Write tensors (safetensors) and a JSON manifest; an explanation already there survives a failure.

        Several threads or processes may save to one folder, and others load from it meanwhile.

        Raises:
            StorageError: the folder cannot be written, or holds an ``explanation.json`` of something
                else, or the parts of this explanation do not belong together; what stood there before is
                untouched.
        """
        return storage.save(folder, KIND, self._stored, self._restore)

    @classmethod
    def load(cls, folder: str | Path) -> "Explanation":
        """Read what `save` wrote. Nothing is unpickled; contents are checked against digests and types.

        Raises:
            StorageError: missing, damaged, or written by something else.
        """
        return storage.load(folder, KIND, cls._restore)

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
        inputs = x if isinstance(x, Tensor) and x.is_floating_point() else arrays.as_tensor(x, "The inputs")
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
    def join(cls, parts: "Iterable[Explanation]") -> "Explanation":
        """One explanation of the samples of several, by the same method and of the same shape, in order.

        Texts and series of different lengths are padded behind, as in a batch of them.

        Raises:
            InputError: nothing, other methods or parameters, or inputs of different shapes.
        """
        parts = of_one_length(list(parts))
        kinds = [kind_of(p) for p in parts]
        if not parts or any(kind != kinds[0] for kind in kinds):
            other = [name for kind in kinds for name in kind if kind[name] != kinds[0][name]]
            both = words.some(sorted({str(kind[name]) for kind in kinds for name in other[:1]}), 2)
            raise InputError(
                Code.SHAPE,
                "Only explanations of one kind can be joined",
                got=f"another {other[0]}: {both[:200]}" if other else "none",
                expected="the same method, parameters, score, and shapes of inputs and maps",
            )
        cost, blank = Cost(), [p.blank for p in parts if p.blank is not None]
        for p in parts:
            cost.add(p.cost)
        return replace(
            parts[0],
            **{name: joined([getattr(p, name) for p in parts], list(map(len, parts))) for name in PER_SAMPLE},
            cost=cost,
            blank=torch.cat(blank) if blank else None,
            blank_names=[name for p in parts for name in p.blank_names],
            warnings=list(dict.fromkeys(w for p in parts for w in p.warnings)),
            versions=dict(parts[0].versions),
        )

    def _tensors(self) -> dict[str, Tensor]:
        found = {
            "attribution": self.attribution,
            "x": self.x,
            "target": self.target,
            "score": self.score,
            "delta": self.delta,
            "standard_error": self.standard_error,
            "labels": self.labels,
            "token_labels": self.token_labels,
            "blank": self.blank,
        }
        found |= {DIAGNOSTIC + k: v for k, v in self.diagnostics.items()}
        return {k: v for k, v in found.items() if v is not None}

    def _stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        residual = self.residual
        manifest = {
            **{
                k: getattr(self, k)
                for k in WRITTEN
                if not k.startswith(("token", "blank")) or getattr(self, k)
            },
            "cost": asdict(self.cost),
            "parts": [asdict(part) for part in self.parts],
            "ids": list(self.ids),
            "residual": None if residual is None else [json_number(r) for r in residual.tolist()],
        }
        return manifest, self._tensors()

    @classmethod
    def _restore(cls, manifest: Mapping[str, Any], tensors: dict[str, Tensor]) -> "Explanation":
        held = schema.members(cls, manifest, names=WRITTEN)
        check_stored(tensors, held)
        extras = {k.removeprefix(DIAGNOSTIC): v for k, v in tensors.items() if k.startswith(DIAGNOSTIC)}
        core: dict[str, Any] = {k: v for k, v in tensors.items() if not k.startswith(DIAGNOSTIC)}
        return cls(**core, diagnostics=extras, **held)
