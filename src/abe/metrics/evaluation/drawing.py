"""Where the random numbers of an evaluation come from: its seed, or draws handed in, for all or by name."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from abe.draws import GivenDraws, as_draws
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError, suggest
from abe.registry import methods, metrics
from abe.types import Draws


class Drawing:
    """The source of draws of every method and metric.

    Args:
        given: one source for all, one by the name of a method or metric, or None for those of the seed.
        seed: of whatever has no source of its own.
        explaining: names of the methods that explain.
        measuring: names of the metrics.

    Raises:
        SpecError: no source of draws, or a name that nobody has, or that a method and a metric share.
    """

    def __init__(
        self, given: Any, seed: int, explaining: Sequence[str] = (), measuring: Sequence[str] = ()
    ) -> None:
        self._own: dict[str, Draws] = {}
        self._common = as_draws(None if isinstance(given, Mapping) else given, seed)
        for key, source in given.items() if isinstance(given, Mapping) else ():
            name = _whose(key, explaining, measuring)
            if name in self._own:
                raise SpecError(Code.DUPLICATE_NAME, "draws= names one of them twice", got=repr(name))
            self._own[name] = as_draws(source, seed)

    def of(self, name: str | None = None) -> Draws:
        """What a method or metric draws from; for None, what all share."""
        return self._common if name is None else self._own.get(name, self._common)

    def check_used(self, failed: Collection[str] = ()) -> None:
        """Refuse recorded draws that nobody asked for; methods that failed are not held to theirs.

        Raises:
            InputError: there are some.
        """
        sources = [(name, one) for name, one in self._own.items() if name not in failed]
        for name, one in [*sources, *([] if failed else [("", self._common)])]:
            if isinstance(one, GivenDraws):
                one.check_used(name)


def drawing(problem: Problem, draws: Draws | None) -> Problem:
    """The problem itself, or the same one that draws from elsewhere."""
    return problem if draws is None or draws is problem.draws else replace(problem, draws=draws)


def _whose(key: Any, explaining: Sequence[str], measuring: Sequence[str]) -> str:
    """The method or metric that a key of ``draws=`` names, also by an alias."""
    by = {name: name for name in (*explaining, *measuring)}
    known = by.get(key) if isinstance(key, str) else None
    for registry, there in ((methods, explaining), (metrics, measuring)):
        if known is None and key in registry and registry.get(key).name in there:
            known = registry.get(key).name
    if known is None:
        raise SpecError(
            Code.UNKNOWN_NAME,
            "draws= names nobody that draws here",
            got=repr(key),
            expected=f"one of {', '.join(by)}",
            fix=(suggest(key, by) or None) if isinstance(key, str) else None,
        )
    if known in explaining and known in measuring:
        raise SpecError(
            Code.DUPLICATE_NAME,
            "draws= names a method and a metric alike",
            got=repr(key),
            fix="Give the explanation another name, in a mapping {name: explanation}",
        )
    return known
