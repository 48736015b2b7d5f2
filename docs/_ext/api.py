"""The reference of every public name: pages for autodoc, written from what the modules export.

A name is public where its module lists it in ``__all__``; a module without that list exports the functions
and classes it defines. What has a page of its own, written from its card, is only led to.
"""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from abe import registry
from abe.registry import Entry, Registry

MODULES = {
    "abe": "What most users need.",
    "abe.task": "A model with the meaning of its inputs.",
    "abe.task.image": "Tasks of pictures.",
    "abe.task.detection": "Tasks of detectors.",
    "abe.task.language": "Tasks of language models.",
    "abe.task.text": "Tasks of texts.",
    "abe.task.table": "Tasks of tables.",
    "abe.task.pair": "Tasks of photographs and captions.",
    "abe.task.array": "Tasks of series and other arrays.",
    "abe.task.data": "Samples from where they lie.",
    "abe.task.zoo": "Models and data that work offline.",
    "abe.methods": "The attribution methods, by file; each has a page of its own.",
    "abe.metrics": "The metrics, what scores hold, agreement and trust.",
    "abe.theory": "Which method to believe.",
    "abe.robustness": "Attacks, their parts, and how robust a model is.",
    "abe.objectives": "What is explained.",
    "abe.baselines": "Reference inputs.",
    "abe.units": "What is ranked and removed together.",
    "abe.sizes": "Sizes as shares of the range of valid inputs.",
    "abe.registry": "Names, and how a package of one's own adds some.",
    "abe.types": "What parts have to be, and what cards hold.",
    "abe.errors": "Errors and their codes.",
    "abe.testing": "The laws that cards claim.",
    "abe.explainers": "The interface of the ABE paper, and functions for Quantus.",
}
"""Module -> one sentence; the pages, in this order."""
REGISTERED = {
    "abe.methods": registry.methods,
    "abe.metrics": registry.metrics,
    "abe.robustness": registry.updates,
    "abe.objectives": registry.objectives,
    "abe.baselines": registry.baselines,
    "abe.units": registry.units,
}
"""Module -> what its page has in full, wherever the code lies."""
PAGES = {"method": "methods", "metric": "metrics", "update": "updates"}
"""Kind -> folder of the pages that are written from cards."""
SECTIONS = ("Formula", "Composition", "Shape", "Range", "Guarantees", "Laws that do not hold", "Cost")
SECTIONS += ("Differs from the paper", "When not to believe it", "Source", "Note")


def setup(app: Any) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", rewrite, priority=400)  # before napoleon reads it
    app.connect("autodoc-process-signature", legible)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def generate(app: Any) -> None:
    """Write every page that changed and remove those of modules that are gone."""
    root = Path(app.srcdir) / "generated" / "api"
    root.mkdir(parents=True, exist_ok=True)
    texts = pages()
    for name, text in texts.items():
        path = root / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in root.glob("*.rst"):
        if path.stem not in texts:
            path.unlink()


def pages() -> dict[str, str]:
    """Module -> its page; what several modules export is described where it comes first."""
    seen: dict[int, str] = {}
    found = {name: page(name, sentence, seen) for name, sentence in MODULES.items()}
    return {"index": index(), **found}


def index() -> str:
    """What the modules hold, and the way to them."""
    lines = [
        _title("Every public name", "="),
        "Written from the modules and their docstrings.",
        ".. list-table::",
    ]
    rows = [f"   * - :doc:`{n} </generated/api/{n}>`\n     - {text}" for n, text in MODULES.items()]
    tree = [".. toctree::\n   :hidden:", "\n".join(f"   {name}" for name in MODULES)]
    return "\n\n".join([*lines, "\n".join(rows), *tree]) + "\n"


def page(name: str, sentence: str, seen: dict[int, str]) -> str:
    """Title, sentence, and every public name; modules within as sections."""
    module = import_module(name)
    objects = dict(public(module))
    within = {n: o for n, o in objects.items() if isinstance(o, ModuleType)}
    parts = [_title(name, "="), sentence]
    parts += _described(name, {n: o for n, o in objects.items() if n not in within}, seen)
    for inner in sorted(within):
        full = within[inner].__name__
        if full in MODULES:
            parts.append(f":doc:`{full} </generated/api/{full}>`")
            continue
        parts += [_title(f"{name}.{inner}", "-"), literal(_opening(within[inner]))]
        parts += _described(f"{name}.{inner}", dict(public(within[inner])), seen)
    factories = [e.factory for e in REGISTERED[name].entries()] if name in REGISTERED else []
    for factory in (f for f in factories if id(f) not in seen):
        parts += _described(factory.__module__, {factory.__name__: factory}, seen)
    return "\n\n".join(parts) + "\n"


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public names of a module with what they are, sorted as a reader looks for them."""
    listed = getattr(module, "__all__", None)
    for name in sorted(vars(module) if listed is None else listed, key=str.lower):
        value = getattr(module, name)
        own = (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__ == module.__name__
        if listed is not None or (own and not name.startswith("_")):
            yield name, value


def _described(module: str, objects: dict[str, Any], seen: dict[int, str]) -> list[str]:
    parts: list[str] = []
    for name, value in objects.items():
        full = f"{module}.{name}"
        if isinstance(value, ModuleType):
            continue
        if inspect.isclass(value):
            body = f".. autoclass:: {full}\n   :members:"
        elif inspect.isroutine(value):
            body = f".. autofunction:: {full}"
        else:
            body = f".. py:data:: {full}\n\n   {literal(_said_of(value))}"
        first = seen.setdefault(id(value), full) if callable(value) else full
        parts.append(body if first == full else f"``{full}`` is :py:obj:`{first}`.")
    return parts


def _said_of(value: Any) -> str:
    if isinstance(value, Registry):
        return f"The registry of every {value.kind.replace('_', ' ')}."
    return "The installed version." if isinstance(value, str) else _opening(type(value))


def _opening(thing: Any) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}"


def rewrite(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A docstring as reStructuredText: code stays code, and nothing else is markup."""
    entry = entries().get(id(obj))
    if entry is not None and entry.kind in PAGES:
        where = f"/generated/{PAGES[entry.kind]}/{entry.name}"
        lines[:] = [
            literal(entry.documented.summary),
            "",
            f"Registered as ``{entry.name}``; :doc:`its page <{where}>` has everything its card says.",
        ]
        return
    lines[:] = escaped(lines)


def legible(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """A signature as one would write it: shapes are said in words, and what is made anew is no name."""
    return _plain(signature), _plain(returns)


def _plain(signature: str | None) -> str | None:
    if signature is None:
        return None
    text = re.sub(r"~?jaxtyping\.\w+\[~?torch\.Tensor, '[^']*'\]", "~torch.Tensor", signature)
    text = re.sub(r"~?jaxtyping\.\w+\[Tensor, '[^']*'\]", "~torch.Tensor", text)
    return _unannotated(text.replace("<factory>", "..."))


def _unannotated(text: str) -> str:
    """``Annotated[int, …]`` as ``int``: what is checked of a number is said in words."""
    found = re.search(r"(?:~?typing\.)?Annotated\[", text)
    if not found:
        return text
    depth, cut = 1, None
    for at in range(found.end(), len(text)):
        depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(text[at], 0)
        if depth == 1 and text[at] == "," and cut is None:
            cut = at
        if depth == 0:
            return text[: found.start()] + text[found.end() : cut] + _unannotated(text[at + 1 :])
    return text


def entries() -> dict[int, Entry]:
    """Every registered factory by identity."""
    kinds = (registry.methods, registry.metrics, registry.updates)
    return {id(e.factory): e for kind in kinds for e in kind.entries()}


def escaped(lines: list[str]) -> list[str]:
    """Lines of a docstring, escaped outside examples."""
    found, example = [], False
    for line in lines:
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        found.append(line if example else literal(line))
    return found


def literal(text: str) -> str:
    """Text in which only code in backticks is markup."""
    start = re.match(r"\s*(?:[-*] |\*{1,2}\w+: )?", text)
    head, rest = text[: start.end()], text[start.end() :]  # type: ignore[union-attr]
    pieces = re.split(r"(``.+?``|`.+?`)", rest)
    return head + "".join(
        f"``{p.strip('`')}``" if i % 2 else re.sub(r"([*|\\]|_(?!\w)|(?<!\w)_)", r"\\\1", p)
        for i, p in enumerate(pieces)
    )
