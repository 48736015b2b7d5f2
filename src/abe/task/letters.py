"""Axes by letters: which axis of an array holds samples, channels, time and places."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from abe.errors import Code, InputError, SpecError

MEANING = {
    "b": "samples",
    "c": "channels",
    "t": "time steps",
    "d": "depth",
    "h": "rows",
    "w": "columns",
    "n": "points",
    "f": "frequencies",
}
"""What the letters of ``axes=`` stand for."""


@dataclass(frozen=True)
class Axes:
    """The axes of an array as the model takes it.

    Attributes:
        letters: one for every axis, such as ``"btc"``.
    """

    letters: str

    @classmethod
    def read(cls, letters: Any, *, known: str = "".join(MEANING), needs: str = "b") -> "Axes":
        """Axes from their letters.

        Args:
            letters: as given.
            known: the letters that may occur.
            needs: those that must.

        Raises:
            SpecError: an unknown, a repeated or a missing letter; samples that are not the first axis.
        """
        said = ", ".join(f"{letter} {MEANING[letter]}" for letter in known)
        if not isinstance(letters, str) or not letters:
            raise _refused("axes= is one letter for every axis", repr(letters)[:40], said)
        strange = [letter for letter in letters if letter not in known]
        if strange:
            raise _refused(f"axes= has no letter {strange[0]!r} here", repr(letters), said)
        twice = [letter for letter in letters if letters.count(letter) > 1]
        if twice:
            raise _refused(
                f"axes= names {MEANING[twice[0]]} twice", repr(letters), "every letter at most once"
            )
        missing = [letter for letter in needs if letter not in letters]
        if missing:
            raise _refused(
                f"axes= does not say which axis holds {MEANING[missing[0]]}",
                repr(letters),
                f"a letter {missing[0]!r}",
            )
        if letters[0] != "b":
            raise _refused(
                "Samples are the first axis",
                repr(letters),
                "axes= that begin with 'b'",
                "Wrap the model in a module whose forward moves the axis, x.movedim(0, 1) for 'tbc'",
            )
        if len(letters) - ("c" in letters) < 2:
            raise _refused("axes= names no axis but samples and channels", repr(letters), "an axis of places")
        return cls(letters)

    @property
    def channels(self) -> int | None:
        """The axis of the channels, or None where there is none."""
        return self.letters.index("c") if "c" in self.letters else None

    @property
    def positions(self) -> str:
        """Letters of what is neither samples nor channels, in order."""
        return self.letters[1:].replace("c", "")

    @property
    def words(self) -> str:
        """What the axes are, in words."""
        return f"{self.letters} ({', '.join(MEANING[letter] for letter in self.letters)})"

    def first(self, x: Tensor) -> Tensor:
        """(b, c, *positions) an array that lies as the letters say."""
        return x[:, None] if self.channels is None else x.movedim(self.channels, 1)

    def batch(self, x: Tensor, what: str = "The input") -> Tensor:
        """(b, c, *positions) a batch, or one sample without its axis of samples.

        Raises:
            InputError: another number of axes.
        """
        if x.ndim == len(self.letters) - 1:
            x = x[None]
        if x.ndim != len(self.letters):
            raise InputError(
                Code.SHAPE,
                f"{what} has another number of axes than axes= says",
                got=f"shape {tuple(x.shape)}",
                expected=f"{self.words}, or one sample without the axis of samples",
            )
        return self.first(x)


def _refused(what: str, got: str, expected: str, fix: str | None = None) -> SpecError:
    return SpecError(Code.BAD_PARAMETER, what, got=got, expected=expected, fix=fix)
