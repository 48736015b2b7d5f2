"""The reference of the documentation has every public name."""

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import abe
from abe import registry

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "_ext"))
import api

ROOT = Path(__file__).parents[1]
PAGES = api.pages()


def described(page: str) -> set[str]:
    """Names that a page describes, or says where they are described."""
    return set(re.findall(r"^(?:\.\. (?:auto|py:)\w+:: |``|:doc:`)(abe[\w.]*)", page, flags=re.MULTILINE))


def test_every_list_of_names_is_in_the_reference() -> None:
    source = ROOT / "src"
    listing = {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for path in (source / "abe").rglob("*.py")
        if re.search(r"^__all__", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    outer = {name for name in listing if not name.startswith(("abe.engines.", "abe.cli"))}
    assert {"abe", "abe.methods", "abe.metrics", "abe.robustness", "abe.testing"} <= outer
    assert outer <= set(api.MODULES)
    assert {f"abe.{room}" for room in abe._ROOMS} <= set(api.MODULES)


@pytest.mark.parametrize("name", api.MODULES)
def test_every_public_name_is_on_its_page(name: str) -> None:
    module = import_module(name)
    names = getattr(module, "__all__", None) or [n for n, _ in api.public(module)]
    assert names
    for one in names:
        value, full = getattr(module, one), f"{name}.{one}"
        if not isinstance(value, ModuleType):
            assert full in described(PAGES[name])
        elif value.__name__ not in api.MODULES:
            inner = {f"{full}.{n}" for n, _ in api.public(value)}
            assert inner <= described(PAGES[name])
            assert f"{full}\n---" in PAGES[name]


@pytest.mark.parametrize("name", api.REGISTERED)
def test_every_factory_is_in_the_reference(name: str) -> None:
    seen: dict[int, str] = {}
    for module, sentence in api.MODULES.items():
        page = api.page(module, sentence, seen)
        if module == name:
            break
    factories = [entry.factory for entry in api.REGISTERED[name].entries()]
    assert {f for f in factories if seen.get(id(f)) not in described(page)} == set()


def test_the_index_leads_to_every_page() -> None:
    text = PAGES["index"]
    assert all(f"</generated/api/{name}>`" in text and f"\n   {name}\n" in text for name in api.MODULES)


def test_nothing_but_code_is_markup() -> None:
    assert (
        api.literal("    x: (b, *f) of |r|, `ig` or ``x_``") == r"    x: (b, \*f) of \|r\|, ``ig`` or ``x_``"
    )
    assert api.literal("x_ and _x, but not x_i") == r"x\_ and \_x, but not x_i"
    assert api.literal("    **how: passed on") == "    **how: passed on"
    assert api.escaped([">>> a * b", "*", "", "*"]) == [">>> a * b", "*", "", r"\*"]


def test_what_has_a_page_is_led_to() -> None:
    lines = ["One.", "", "More."]
    api.rewrite(None, "function", "", registry.methods.get("ig").factory, None, lines)
    assert "/generated/methods/integrated_gradients" in lines[-1]
    assert lines[0] == registry.methods.get("ig").card.summary


def test_signatures_are_as_one_would_write_them() -> None:
    given = (
        "(x: ~jaxtyping.Float[Tensor, 'b *f'], n: ~typing.Annotated[int, ~abe.checks.AtLeast(least=1)] = 1, "
        "e: ~collections.abc.Sequence[~typing.Annotated[float, Between(low=0, ends=())]] | None = <factory>)"
    )
    plain = "(x: ~torch.Tensor, n: int = 1, e: ~collections.abc.Sequence[float] | None = ...)"
    assert api.legible(None, "", "", None, None, given, None) == (plain, None)
