"""One-line mutations of sources: where they can be, and a seeded choice that is even over rooms and files."""

import ast
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

ROOMS = ("engines", "instrument", "metrics", "robustness", "task")
COMPARED = {
    ast.Lt: ("<", (">", "<=")),
    ast.LtE: ("<=", (">=", "<")),
    ast.Gt: (">", ("<", ">=")),
    ast.GtE: (">=", ("<=", ">")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
REACHING = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
}
ENDS = {
    "min": "max",
    "max": "min",
    "amin": "amax",
    "amax": "amin",
    "minimum": "maximum",
    "maximum": "minimum",
}
ENDS |= {"argmin": "argmax", "argmax": "argmin"}
SAID = ("__repr__", "__str__", "_said", "_described")
"""Functions whose whole work is a text."""
NUMERIC = re.compile(r"\b(Tensor|float|Float)\b")


@dataclass(frozen=True, order=True)
class Mutation:
    """One line of one file that is written otherwise."""

    file: str
    line: int
    kind: str
    start: int
    end: int
    written: str
    before: str
    after: str

    @property
    def name(self) -> str:
        """What identifies it in a report."""
        return f"{self.file}:{self.line}:{self.start} {self.kind} {self.written}"

    def applied(self, text: bytes) -> bytes:
        """The file's text with the mutation."""
        lines = text.splitlines(keepends=True)
        line = lines[self.line - 1]
        lines[self.line - 1] = line[: self.start] + self.written.encode() + line[self.end :]
        return b"".join(lines)


def sites(file: str, text: bytes) -> list[Mutation]:
    """Every mutation of a file, in order."""
    found = _Sites(file, text)
    found.visit(ast.parse(text))
    return sorted(set(found.mutations))


def chosen(root: Path, seed: int, count: int, rooms: tuple[str, ...] = ROOMS) -> list[Mutation]:
    """As many mutations in every room, in files drawn without repeats, of kinds drawn alike."""
    draws = random.Random(seed)
    files = {room: _shuffled(root, room, draws) for room in rooms}
    taken: list[Mutation] = []
    turns: Iterator[str] = cycle(rooms)
    while len(taken) < count and any(files.values()):
        queue = files[next(turns)]
        while queue:
            file = queue.pop()
            text = (root / file).read_bytes()
            there = sites(file, text)
            kinds = sorted({one.kind for one in there})
            kind = draws.choice(kinds) if kinds else ""
            one = draws.choice([one for one in there if one.kind == kind]) if kind else None
            if one is not None and _parses(one.applied(text)):
                taken.append(one)
                break
    return sorted(taken)


def _shuffled(root: Path, room: str, draws: random.Random) -> list[str]:
    """The files of a room; each once in a random order, and then all again as often as is asked."""
    names = sorted(str(p.relative_to(root)) for p in (root / "src/abe" / room).rglob("*.py"))
    rounds: list[str] = []
    for _ in range(8):
        draws.shuffle(names)
        rounds = [*names, *rounds]
    return rounds


def _parses(text: bytes) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


class _Sites(ast.NodeVisitor):
    """Collects mutations in code that is executed: no annotations, docstrings, and texts of errors."""

    def __init__(self, file: str, text: bytes) -> None:
        self.file = file
        self.lines = text.splitlines()
        self.mutations: list[Mutation] = []
        self.numeric = False

    # -- what is left out --------------------------------------------------------------------------

    def visit_Raise(self, node: ast.Raise) -> None:
        """An error and its text."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A text."""

    def visit_Import(self, node: ast.Import) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in SAID or ast.unparse(node.returns or ast.Constant("")).endswith("Error"):
            return
        before = self.numeric
        self.numeric = node.returns is not None and bool(NUMERIC.match(ast.unparse(node.returns)))
        for part in (*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body):
            self.visit(part)
        self.numeric = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:
            self.visit(part)

    # -- what is mutated ---------------------------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> None:
        left: ast.expr = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            old, others = COMPARED[type(op)]
            for new in others:
                self._between("comparison", left, right, old, new)
            left = right
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in REACHING and not isinstance(node.left, ast.JoinedStr | ast.List | ast.Tuple):
            self._between("arithmetic", node.left, node.right, *REACHING[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        if len(node.values) == 2:
            self._between("and/or", node.values[0], node.values[1], old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._put("not removed", node, self._text(node.operand))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._put("constant", node, str(not value))
        elif isinstance(value, int):
            self._put("constant", node, str(value + 1))
        elif isinstance(value, float):
            self._put("constant", node, repr(2 * value or 1.0))

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr in ENDS:
            self._replace_end(called, called.attr, ENDS[called.attr])
        elif isinstance(called, ast.Name) and called.id in ENDS:
            self._put("min/max", called, ENDS[called.id])
        for word in node.keywords:
            if word.arg in ("dim", "axis") and (old := _whole(word.value)) is not None:
                self._put("dim", word.value, str(-1 if old != -1 else 0))
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if self.numeric and isinstance(node.value, ast.Call | ast.BinOp | ast.Name | ast.Subscript):
            self._put("sign returned", node.value, f"-({self._text(node.value)})")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom):
            self._put("statement skipped", node, "pass")
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._put("statement skipped", node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._put("statement skipped", node, "pass")
        self.generic_visit(node)

    # -- where it is written -----------------------------------------------------------------------

    def _text(self, node: ast.expr) -> str:
        if node.lineno != node.end_lineno:
            return ""
        return self.lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()

    def _put(self, kind: str, node: ast.expr | ast.stmt, new: str) -> None:
        if node.lineno == node.end_lineno and new and node.end_col_offset is not None:
            self._add(kind, node.lineno, node.col_offset, node.end_col_offset, new)

    def _replace_end(self, node: ast.Attribute, old: str, new: str) -> None:
        """The attribute at the end of a dotted name, that may stand on a line of its own."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        self._add("min/max", node.end_lineno, node.end_col_offset - len(old), node.end_col_offset, new)

    def _between(self, kind: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """An operator is nowhere in the tree: it is between its operands."""
        if left.end_lineno != right.lineno or left.end_col_offset is None:
            return
        line, begin = self.lines[right.lineno - 1], left.end_col_offset
        at = line[begin : right.col_offset].find(old.encode())
        if at >= 0:
            self._add(kind, right.lineno, begin + at, begin + at + len(old), new)

    def _add(self, kind: str, line: int, start: int, end: int, new: str) -> None:
        old = self.lines[line - 1]
        made = old[:start] + new.encode() + old[end:]
        before, after = (text.decode().strip() for text in (old, made))
        if before != after:
            self.mutations.append(Mutation(self.file, line, kind, start, end, new, before, after))


def _whole(node: ast.expr) -> int | None:
    """A whole number with its sign, or None."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if type(value) is int else None
