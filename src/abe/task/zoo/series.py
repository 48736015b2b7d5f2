"""Real time series out of an installed package, read from its text files: no package is run."""

from dataclasses import dataclass

import numpy as np

from abe.task.zoo.files import Pinned, pinned, require


@dataclass(frozen=True, eq=False)
class SeriesSet:
    """Labelled series, channels first.

    Attributes:
        x: (n, channels, t) float32; shorter series are followed by zeros.
        lengths: (n,) steps that each has.
        target: (n,) class numbers.
        classes: names of the classes by number.
        train: (n,) whether it belongs to the published training part, which comes first.
    """

    x: np.ndarray
    lengths: np.ndarray
    target: np.ndarray
    classes: tuple[str, ...]
    train: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def __repr__(self) -> str:
        n, channels, steps = self.x.shape
        to = f"{int(self.lengths.min())} to " if self.lengths.min() < steps else ""
        return f"SeriesSet({n} of {channels} × {to}{steps} steps, {len(self.classes)} classes)"


@dataclass(frozen=True)
class Archive:
    """Where a set of series lies.

    Attributes:
        title: what it is, for `abe zoo list`.
        files: training and test part.
    """

    title: str
    files: tuple[Pinned, ...]


def _archive(title: str, folder: str) -> Archive:
    parts = (f"datasets/data/{folder}/{folder}_{part}.ts" for part in ("TRAIN", "TEST"))
    return Archive(title, tuple(pinned("sktime", part) for part in parts))


ARCHIVES = {
    "gunpoint": _archive(
        "GunPoint: the height of a hand over 150 steps, gun or pointing finger",
        "GunPoint",
    ),
    "italy-power-demand": _archive(
        "ItalyPowerDemand: electric power over 24 hours, winter or summer",
        "ItalyPowerDemand",
    ),
    "basic-motions": _archive(
        "BasicMotions: 6 channels of a watch over 100 steps, 4 activities",
        "BasicMotions",
    ),
    "japanese-vowels": _archive(
        "JapaneseVowels: 12 channels of speech, 7 to 29 steps, 9 speakers",
        "JapaneseVowels",
    ),
}


def series(name: str) -> SeriesSet:
    """A set of series by name: some of `ARCHIVES`.

    Raises:
        PackageError: sktime is missing or lacks its files.
        StorageError: a file is another one.
    """
    files = ARCHIVES[name].files
    require((files[0].package,), f"The series {name}")
    parts = [_parsed(file.read().decode()) for file in files]
    samples = [sample for found, _ in parts for sample in found]
    labels = [label for _, found in parts for label in found]
    classes = tuple(sorted(set(labels)))
    lengths = np.array([sample.shape[1] for sample in samples])
    x = np.zeros((len(samples), len(samples[0]), int(lengths.max())), np.float32)
    for row, sample in zip(x, samples, strict=True):
        row[:, : sample.shape[1]] = sample
    target = np.array([classes.index(label) for label in labels])
    return SeriesSet(x, lengths, target, classes, np.arange(len(x)) < len(parts[0][0]))


def _parsed(text: str) -> tuple[list[np.ndarray], list[str]]:
    """Samples (channels, t) and labels of a ``.ts`` file: a line each, channels and label apart by colons."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip().lower() == "@data")
    samples: list[np.ndarray] = []
    labels: list[str] = []
    for line in filter(str.strip, lines[start + 1 :]):
        *channels, label = line.strip().split(":")
        samples.append(np.array([channel.split(",") for channel in channels], dtype=np.float64))
        labels.append(label)
    return samples, labels
