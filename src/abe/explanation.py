"""The one result type: maps with everything needed to trust, repeat and store them."""

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from abe._version import __version__
from abe.errors import Code, InputError, StorageError
from abe.types import Cost, Features, PerSample

FORMAT = "abe-explanation"
FORMAT_VERSION = 1
MANIFEST = "explanation.json"
TENSORS = re.compile(r"explanation-[0-9a-f]{16}\.safetensors")
"""The only files that a manifest may name, so that no other file is ever read or removed."""


@dataclass(eq=False, kw_only=True)
class Explanation:
    """Attributions of a batch with their provenance.

    Attributes:
        attribution: (b, *f) positive supports the explained decision.
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
    """

    attribution: Features
    x: Features
    target: Tensor
    target_names: list[str]
    names: list[str]
    method: str
    spec: Mapping[str, Any]
    objective: str
    score: PerSample
    delta: PerSample | None = None
    standard_error: Features | None = None
    top: list[list[tuple[str, float]]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    warnings: list[str] = field(default_factory=list)
    seed: int = 0
    ids: list[int] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    modality: str = "image"

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

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The attribution as a NumPy array, so that ``np.asarray(explanation)`` works."""
        array = self.attribution.detach().cpu().numpy()
        return array.astype(dtype, copy=False) if dtype is not None else array

    def __len__(self) -> int:
        return len(self.attribution)

    def __getitem__(self, index: int) -> "Explanation":
        """The explanation of one sample."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        i = index % len(self)
        one = slice(i, i + 1)
        per_sample = {k: v[one] for k, v in self._tensors().items()}
        diagnostics = {k.removeprefix("diagnostic."): v for k, v in per_sample.items() if "diagnostic." in k}
        core = {k: v for k, v in per_sample.items() if "diagnostic." not in k}
        return Explanation(
            **core,
            diagnostics=diagnostics,
            target_names=self.target_names[one],
            names=self.names[one],
            top=self.top[one],
            ids=self.ids[one],
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

        Everything is written beside the old files first; replacing the manifest is the commit.

        Raises:
            StorageError: the folder cannot be written, or holds an ``explanation.json`` of something
                else; what stood there before is untouched.
        """
        folder = Path(folder)
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in self._tensors().items()}
        payload = dump_tensors(tensors, metadata={"format": FORMAT})
        digest = hashlib.sha256(payload).hexdigest()
        name = f"explanation-{digest[:16]}.safetensors"
        manifest = {**self._manifest(), "tensors": name, "sha256": digest}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            old = _tensor_file(folder)
            _replace(folder / name, payload)
            try:
                _replace(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False).encode())
            except BaseException:
                if old != name:
                    (folder / name).unlink(missing_ok=True)
                raise
        except StorageError:
            raise
        except OSError as problem:
            raise StorageError(
                Code.NOT_WRITTEN,
                "The explanation could not be written",
                got=f"{folder}: {problem.strerror or problem}",
                fix="Free space or choose another folder; what was there before is unchanged",
            ) from problem
        if old is not None and old != name:
            with suppress(OSError):  # the new explanation is complete; a file too many does no harm
                (folder / old).unlink()
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Explanation":
        """Read what `save` wrote. Nothing is unpickled; contents are checked against their digest.

        Raises:
            StorageError: missing, damaged, or written by something else.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        payload = _read_tensors(folder, manifest)
        try:
            return cls._restore(manifest, parse_tensors(payload))
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as problem:
            raise StorageError(
                Code.CORRUPT_FILE,
                "The saved explanation is damaged",
                got=f"{folder}: {problem!r}",
                fix="Explain again, or restore the folder from a copy",
            ) from problem

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
        }

    def _manifest(self) -> dict[str, Any]:
        residual = self.residual
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **self._shared(),
            "cost": asdict(self.cost),
            "names": self.names,
            "target_names": self.target_names,
            "top": self.top,
            "ids": self.ids,
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
    if not bool(torch.isfinite(attribution).all()):
        raise InputError(Code.MAP_NOT_FINITE, "The method returned NaN or infinity")


def _json_number(number: float) -> float | str:
    return number if abs(number) != float("inf") and number == number else str(number)


def _replace(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, then rename: the path holds the old content or the new, never half."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary) if path.exists() else os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _tensor_file(folder: Path) -> str | None:
    """The tensors of the explanation that stands in ``folder``, if any; a foreign manifest is refused."""
    try:
        manifest = _read_manifest(folder)
    except StorageError as problem:
        if problem.code is Code.FOREIGN_FILE and (folder / MANIFEST).exists():
            raise StorageError(
                Code.FOREIGN_FILE,
                f"The folder holds a {MANIFEST} that ABE did not write, or another version of it",
                got=str(folder),
                fix="Choose another folder, or move that file away",
            ) from problem
        return None
    name = manifest.get("tensors")
    return name if isinstance(name, str) and TENSORS.fullmatch(name) else None


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise StorageError(
            Code.FOREIGN_FILE,
            "There is no saved explanation here",
            got=str(folder),
            expected=f"a folder with {MANIFEST}, as written by explanation.save(folder)",
        ) from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise StorageError(
            Code.CORRUPT_FILE, "The manifest cannot be read", got=f"{folder / MANIFEST}: {problem}"
        ) from problem
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StorageError(
            Code.FOREIGN_FILE,
            "This was not written by ABE",
            got=f"format {manifest.get('format')!r}"
            if isinstance(manifest, dict)
            else type(manifest).__name__,
            expected=repr(FORMAT),
        )
    if manifest.get("format_version") != FORMAT_VERSION:
        raise StorageError(
            Code.FOREIGN_FILE,
            "This was written by another version of ABE",
            got=f"format version {manifest.get('format_version')}",
            expected=str(FORMAT_VERSION),
            fix="Read it with that version",
        )
    return manifest


def _read_tensors(folder: Path, manifest: Mapping[str, Any]) -> bytes:
    name = manifest.get("tensors")
    if not isinstance(name, str) or not TENSORS.fullmatch(name):
        raise StorageError(Code.CORRUPT_FILE, "The manifest names no file of this folder", got=repr(name))
    try:
        payload = (folder / name).read_bytes()
    except OSError as problem:
        raise StorageError(
            Code.CORRUPT_FILE, "The tensors of this explanation are missing", got=str(folder / name)
        ) from problem
    if hashlib.sha256(payload).hexdigest() != manifest.get("sha256"):
        raise StorageError(
            Code.CORRUPT_FILE,
            "The tensors are damaged or were exchanged",
            got=f"{folder / name} with another digest than the manifest's",
        )
    return payload
