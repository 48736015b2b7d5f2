"""What a law is, how it is checked, and what is said when it is broken.

A law is a function of a case (a method, metric, path, … on the kit's toy nets) that measures
something and calls `ensure`. `run` checks every law of a case and reads the card's
``expected_failures``: a law listed there must fail on at least one of the kit's nets, otherwise the
list is out of date and that is an error too. A reason such as ``"sometimes, within 1e-4: …"`` is for laws
that fail on some runs only: it is accepted either way, and the verdict says which it was, as long as what is
missed is at most that number.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from abe.types import Card

Numbers = Mapping[str, object]
_Check = TypeVar("_Check", bound=Callable[[Any], Numbers])
Outcome = Literal["holds", "fails as declared", "does not apply"]
SOMETIMES = re.compile(r"sometimes, within (\d+(?:\.\d+)?(?:e-?\d+)?): \S")
"""How the reason of a law begins that fails on some runs only, and by how much at most."""


class LawBroken(AssertionError):  # noqa: N818 - what is wrong is the subject, not the call
    """A law does not hold.

    Attributes:
        subject: what was checked.
        law: name of the first broken law.
        numbers: what was measured for it.
        reading: how to read the numbers.
        breaches: every broken law of the subject.
    """

    def __init__(self, subject: str, breaches: "Sequence[Breach]") -> None:
        self.subject = subject
        self.breaches = tuple(breaches)
        first = self.breaches[0]
        self.law, self.numbers, self.reading = first.law, first.numbers, first.reading
        super().__init__("\n".join([f"{subject} breaks {len(breaches)} law(s)", *map(str, breaches)]))


@dataclass(frozen=True)
class Breach:
    """One broken law with its numbers and how to read them."""

    law: str
    says: str
    numbers: Numbers
    reading: str
    cause: Exception | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"- {self.law}: {self.says}\n    measured: {show(self.numbers)}\n    reading: {self.reading}"


@dataclass(frozen=True)
class Law:
    """A statement with a check.

    Attributes:
        name: the key of ``expected_failures``.
        says: what must hold.
        reading: how to read the numbers of a breach.
        check: measures, and calls `ensure`; what it returns is kept in the verdict.
        applies: "" where the law is to be checked, else why it is not.
    """

    name: str
    says: str
    reading: str
    check: Callable[[Any], Numbers] = field(repr=False)
    applies: Callable[[Any], str] = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """What came out of one law.

    Attributes:
        law: its name.
        outcome: ``"holds"``, ``"fails as declared"`` (in ``expected_failures``) or ``"does not apply"``.
        numbers: what was measured.
        reason: why it does not apply, or the declared reason of the failure.
    """

    law: str
    outcome: Outcome
    numbers: Numbers = field(default_factory=dict)
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.law}: {self.outcome} {show(self.numbers)} {self.reason}".rstrip()


class Broken(Exception):  # noqa: N818 - never seen outside
    """Raised inside a law by `ensure`; `check` turns it into a `Breach` or a declared failure."""

    def __init__(self, numbers: Numbers, by: float = math.inf) -> None:
        self.numbers, self.by = numbers, by
        super().__init__(show(numbers))


class Laws:
    """An ordered collection of laws for one kind of case."""

    def __init__(self) -> None:
        self._laws: dict[str, Law] = {}

    def add(
        self, name: str, reading: str, *, when: Callable[[Any], str] | None = None
    ) -> Callable[[_Check], _Check]:
        """Decorator: enter a check under ``name``; its docstring is the statement.

        Args:
            name: the key of ``expected_failures``.
            reading: how to read the numbers of a breach.
            when: says "" or why the law does not apply to a case.
        """

        def enter(check: _Check) -> _Check:
            says = " ".join((check.__doc__ or "").split())
            self._laws[name] = Law(name, says, reading, check, when or always)
            return check

        return enter

    def __iter__(self) -> Iterator[Law]:
        return iter(self._laws.values())

    def names(self) -> list[str]:
        """Names in the order they are checked."""
        return list(self._laws)


def always(case: Any) -> str:
    """The law applies."""
    return ""


def ensure(holds: bool, by: float = math.inf, /, **numbers: object) -> Numbers:
    """The numbers of a law, which is broken where ``holds`` is False.

    Args:
        holds: whether the law does.
        by: what is missed where it does not, in the law's own measure; a card may bound it.
        **numbers: what was measured.
    """
    if not holds:
        raise Broken(numbers, by)
    return numbers


def run(laws: Laws, case: Any, only: str | Sequence[str] | None = None) -> list[Verdict]:
    """Check the laws of a case, all of them or those named in ``only``.

    Args:
        laws: which kit.
        case: has ``subject`` (a name to print) and ``card``.
        only: names of laws.

    Returns:
        One verdict per law.

    Raises:
        LawBroken: at least one law does not hold, or does hold against its declaration.
    """
    wanted = laws.names() if only is None else [only] if isinstance(only, str) else list(only)
    unknown = [name for name in (*wanted, *case.card.expected_failures) if name not in laws.names()]
    if unknown:
        raise ValueError(f"{case.subject}: no law is called {unknown[0]!r}; the laws are {laws.names()}")
    for name, reason in case.card.expected_failures.items():
        if reason.startswith("sometimes") and not SOMETIMES.match(reason):
            raise ValueError(
                f"{case.subject}: the reason why {name!r} fails on some runs only gives no bound; write "
                f"'sometimes, within 1e-4: …'. Got {reason!r}"
            )
    verdicts: list[Verdict] = []
    breaches: list[Breach] = []
    for law in laws:
        if law.name in wanted:
            found = check(law, case)
            (breaches if isinstance(found, Breach) else verdicts).append(found)  # type: ignore[arg-type]
    if breaches:
        raise LawBroken(case.subject, breaches) from next((b.cause for b in breaches if b.cause), None)
    return verdicts


def check(law: Law, case: Any) -> Verdict | Breach:
    """One law of one case, read against the card."""
    declared = declared_failure(case.card, law.name)
    why_not = law.applies(case)
    if why_not:
        if declared:
            reading = f"Take it off expected_failures: the law is not checked here ({why_not})."
            return Breach(law.name, law.says, {"declared": declared}, reading)
        return Verdict(law.name, "does not apply", reason=why_not)
    try:
        numbers = law.check(case)
    except Broken as broken:
        bound = bound_of(declared)
        if declared and (bound == math.inf or broken.by <= bound):  # NaN is beyond every bound
            return Verdict(law.name, "fails as declared", broken.numbers, declared)
        if declared:
            numbers = {**broken.numbers, "missed": broken.by, "declared": declared}
            return Breach(law.name, law.says, numbers, "It is missed by more than the card allows.")
        return Breach(law.name, law.says, broken.numbers, law.reading)
    except Exception as problem:
        raised = {"raised": f"{type(problem).__name__}: {problem}"}
        return Breach(law.name, law.says, raised, "The check could not be finished.", problem)
    if declared and not SOMETIMES.match(declared):
        reading = (
            "It is in expected_failures but holds on every net of the kit: take it off the list, or start "
            "its reason with 'sometimes, within <by how much>:' if it fails on some runs only."
        )
        return Breach(law.name, law.says, {**numbers, "declared": declared}, reading)
    return Verdict(law.name, "holds", numbers, declared)


def declared_failure(card: Card, law: str) -> str:
    """The declared reason why a law fails, or ""."""
    return card.expected_failures.get(law, "")


def bound_of(reason: str) -> float:
    """By how much a law may be missed: without end where it must fail, up to the bound where it may."""
    found = SOMETIMES.match(reason)
    return float(found[1]) if found else math.inf


def show(numbers: Numbers) -> str:
    """Numbers in one line."""
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in numbers.items())
