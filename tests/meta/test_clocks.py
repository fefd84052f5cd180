"""Tests never judge by the clock that something was quick enough: machines differ.

That something took no less than it should holds on any machine, and may be asserted.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from support.repository import ROOT

CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "time"}


def reads_a_clock(node: ast.AST, times: set[str]) -> bool:
    """Return whether an expression has the time in it, or one of the variables that do."""
    for each in ast.walk(node):
        if isinstance(each, ast.Call):
            called = each.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in CLOCKS and ast.unparse(called) != "time.time":  # which is the date
                return True
        elif isinstance(each, ast.Name) and each.id in times:
            return True
    return False


def judgements(source: str) -> Iterator[str]:
    """Yield each comparison that fails when something takes longer."""
    if not any(f"{clock}(" in source for clock in CLOCKS):
        return
    tree = ast.parse(source)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        times: set[str] = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and reads_a_clock(node.value, times):
                times |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        for node in ast.walk(function):
            if isinstance(node, ast.Assert):
                yield from _bounds(node.test, times)


def _bounds(test: ast.expr, times: set[str]) -> Iterator[str]:
    for node in ast.walk(test):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
            smaller = left if isinstance(operator, ast.Lt | ast.LtE) else right
            if not isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                continue
            if reads_a_clock(smaller, times):
                yield ast.unparse(node)


def test_nothing_has_to_be_quick() -> None:
    found = {path: list(judgements(path.read_text())) for path in (ROOT / "tests").rglob("*.py")}
    assert {path: judged for path, judged in found.items() if judged} == {}


@pytest.mark.parametrize(
    "statement",
    [
        "assert time.monotonic() - began < 1.0",
        "assert 5 >= loop.time() - began",
        "assert 0 < perf_counter() <= 2, 'slow'",
        "began = time.monotonic(); took = time.monotonic() - began; assert took < 1",
    ],
)
def test_a_judgement_is_found(statement: str) -> None:
    assert list(judgements(f"def test():\n    {statement}\n"))


@pytest.mark.parametrize(
    "statement",
    [
        "began = time.monotonic(); assert time.monotonic() - began > 1.0",
        "assert record.time < 5",
        "before = time.time(); assert path.stat().st_mtime > before",
        "while time.monotonic() < deadline: pass",
    ],
)
def test_a_lower_bound_is_none(statement: str) -> None:
    assert not list(judgements(f"def test():\n    {statement}\n"))
