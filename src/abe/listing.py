"""Names of what is registered, filtered by what their cards say."""

from collections.abc import Iterator
from fnmatch import fnmatch

from abe.checks import shown
from abe.errors import Code, SpecError, suggest
from abe.registry import Entry, Registry, canonical, methods, metrics, updates
from abe.types import Axiom, Direction


def list_methods(
    pattern: str = "*",
    *,
    family: str | None = None,
    reformulation: str | None = None,
    guarantees: Axiom | None = None,
    needs: str | None = None,
    without: str | None = None,
    modality: str | None = None,
) -> list[str]:
    """Names of attribution methods, in the order of their families.

    Args:
        pattern: of names and aliases, as in a shell: ``"*grad*"``.
        family: formulation family of the theory survey, such as ``"attention"``.
        reformulation: reformulation family, such as ``"path integral"``.
        guarantees: an axiom that the method claims, such as ``"completeness"``.
        needs: something it needs, such as ``"gradient"`` or ``"layer"``.
        without: something it must not need.
        modality: ``"image"``, ``"tabular"``, ``"series"``, …

    Raises:
        SpecError: no card knows such a family, need, axiom or modality; the nearest is suggested.

    Example:
        >>> import abe
        >>> abe.list_methods(family="attention", without="gradient")
        ['raw_attention', 'attention_rollout', 'daam']
    """
    asked = {
        "family": family,
        "reformulations": reformulation,
        "guarantees": guarantees,
        "needs": needs,
        "modalities": modality,
    }
    return _names(methods, pattern, asked, without)


def list_metrics(
    pattern: str = "*",
    *,
    direction: Direction | None = None,
    needs: str | None = None,
    without: str | None = None,
    modality: str | None = None,
) -> list[str]:
    """Names of metrics.

    Args:
        pattern: of names and aliases, as in a shell: ``"kl_*"``.
        direction: ``"higher"`` or ``"lower"`` is better.
        needs: something it needs: ``"mask"``, ``"label"`` or ``"method"`` (which explains again).
        without: something it must not need.
        modality: ``"image"``, ``"tabular"``, ``"series"``, …

    Raises:
        SpecError: no card knows such a direction, need or modality.

    Example:
        >>> import abe
        >>> abe.list_metrics("kl_*")
        ['kl_insertion', 'kl_deletion', 'kl_gap']
    """
    return _names(metrics, pattern, {"direction": direction, "needs": needs, "modalities": modality}, without)


def list_attacks(
    pattern: str = "*",
    *,
    family: str | None = None,
    needs: str | None = None,
    without: str | None = None,
    modality: str | None = None,
) -> list[str]:
    """Names of attacks, each of which is also the path of an attribution.

    Args:
        pattern: of names and aliases, as in a shell.
        family: ``"white-box attack"``, ``"transferable attack"`` or ``"generative attack"``.
        needs: something it needs: ``"image"``, ``"layer"``, ``"bounds"``, ``"training data"``.
        without: something it must not need.
        modality: ``"image"``, ``"tabular"``, ``"series"``, …

    Raises:
        SpecError: no card knows such a family, need or modality.

    Example:
        >>> import abe
        >>> abe.list_attacks(family="white-box attack")
        ['fgsm', 'bim', 'pgd', 'cw']
    """
    return _names(updates, pattern, {"family": family, "needs": needs, "modalities": modality}, without)


def _names(registry: Registry, pattern: str, asked: dict[str, str | None], without: str | None) -> list[str]:
    entries = registry.entries()
    if not isinstance(pattern, str):
        raise SpecError(
            Code.BAD_PARAMETER, "pattern= is a text", got=shown(pattern), expected="a name, or a part with *"
        )
    for field, value in [*asked.items(), ("needs", without)]:
        known = {said for entry in entries for said in _said(entry, field)}
        if value is not None and (not isinstance(value, str) or value not in known):
            raise SpecError(
                Code.BAD_PARAMETER,
                f"No {registry.kind} has {field} {shown(value)}",
                expected=", ".join(sorted(known)),
                fix=suggest(str(value), known) or None,
            )
    return [
        entry.name
        for entry in entries
        if any(fnmatch(canonical(name), canonical(pattern)) for name in (entry.name, *entry.aliases))
        and all(value is None or value in _said(entry, field) for field, value in asked.items())
        and (without is None or without not in entry.card.needs)
    ]


def _said(entry: Entry, field: str) -> Iterator[str]:
    said = getattr(entry.card, field)
    return iter(() if said is None else (said,) if isinstance(said, str) else said)
