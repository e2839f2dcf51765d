"""Tests assert what they seem to: what ruff has no rule for."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
_ASSERTING = ("assert", "raises", "fail", "warns")
"""Parts of the names of calls that fail a test: numpy's and torch's own, and pytest's."""


def problems(source: str) -> list[str]:
    """What asserts nothing in a test module, a line each."""
    tree = ast.parse(source)
    found = [f"line {node.lineno}: {what}" for node in ast.walk(tree) for what in _problems_of(node)]
    helpers = {f.name for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and _asserts(f, set())}
    for function in ast.walk(tree):
        is_test = isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
        if is_test and not _asserts(function, helpers):
            found.append(f"line {function.lineno}: {function.name} asserts nothing")
    return found


def _problems_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Assert):
        if any(isinstance(part, ast.Compare | ast.BoolOp) for part in ast.walk(node.msg or ast.Pass())):
            yield "what stands behind the comma is the message, and compares nothing"
        if _is_always_true(node.test):
            yield "this is true whatever the code does"
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
        pattern = next((word.value for word in node.keywords if word.arg == "match"), None)
        if isinstance(pattern, ast.Constant) and "|" in _outside_groups(str(pattern.value)):
            yield "either of two messages passes; give each case its own"


def _is_always_true(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return any(map(_is_always_true, test.values))
    is_full = isinstance(test, ast.Tuple | ast.List | ast.Set) and bool(test.elts)
    is_true = isinstance(test, ast.Constant) and bool(test.value)
    return is_full or is_true or isinstance(test, ast.GeneratorExp | ast.Lambda | ast.JoinedStr)


def _outside_groups(pattern: str) -> str:
    depth, outside = 0, []
    for before, letter in zip(" " + pattern, pattern, strict=False):
        if before != "\\":
            depth += {"(": 1, ")": -1}.get(letter, 0)
            outside.append(letter if depth == 0 else "")
    return "".join(outside)


def _asserts(function: ast.AST, helpers: set[str]) -> bool:
    """Whether anything in a function fails the test, or a helper does that it calls."""
    calls = (ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call))
    called = any(name in helpers or any(word in name for word in _ASSERTING) for name in calls)
    return called or any(isinstance(node, ast.Assert) for node in ast.walk(function))


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_every_assertion_asserts(path: Path) -> None:
    assert problems(path.read_text()) == []


@pytest.mark.parametrize(
    "body",
    [
        "assert a, b == 1",
        "assert (a, b == 1)",
        "assert a == 1 or 'b'",
        "assert (x for x in a)",
        "assert f'{a}'",
        "a == 1",
        "with pytest.raises(ValueError, match='one|other'): a()",
    ],
)
def test_what_asserts_nothing_is_found(body: str) -> None:
    assert len(problems(f"def test_it():\n    {body}\n")) == 1
    assert problems("def test_it():\n    assert a == 1, f'{b}'\n") == []
