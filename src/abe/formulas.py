"""Cost formulas of cards: small arithmetic over parameter names, without ``eval``."""

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

from abe.errors import Code, SpecError

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def evaluate(formula: str, names: Mapping[str, object]) -> float | None:
    """The value of a formula such as ``"b * (steps + 2)"``; None for ``"adaptive"`` or unset names.

    Raises:
        SpecError: the formula uses anything but names, numbers, ``+ - * /`` and parentheses.
    """
    if formula == "adaptive":
        return None
    try:
        return _value(_parsed(formula), names)
    except SyntaxError as problem:
        raise _bad(formula) from problem


@lru_cache(maxsize=1024)
def _parsed(formula: str) -> ast.expr:
    return ast.parse(formula, mode="eval").body


def _value(node: ast.AST, names: Mapping[str, object]) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.Name):
        found = names.get(node.id)
        if isinstance(found, tuple | list):
            return float(len(found))
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, names), _value(node.right, names)
        return None if left is None or right is None else _OPERATORS[type(node.op)](left, right)
    raise _bad(ast.unparse(node))


def _bad(formula: str) -> SpecError:
    return SpecError(
        Code.BAD_PARAMETER,
        "A cost formula may hold names, numbers, + - * / and parentheses",
        got=repr(formula),
        expected='for example "b * (steps + 2)"',
    )
