"""tests/unit mirrors src one to one: a module is tested where one looks for it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from support.repository import MODULES, ROOT, SOURCE

UNIT = ROOT / "tests" / "unit"

UNTESTED: dict[str, str] = {}
"""Module -> why it can have no unit test of its own. Better empty than long."""


def twin_of(source: Path) -> Path:
    """Return the test file of a source file."""
    return UNIT / source.relative_to(SOURCE).with_name(f"test_{source.name}")


def source_of(test: Path) -> Path:
    """Return the source file of a test file."""
    return SOURCE / test.relative_to(UNIT).with_name(test.name.removeprefix("test_"))


def has_code(source: str) -> bool:
    """Tell whether a module does more than hold a docstring, imports and ``__all__``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            continue
        return True
    return False


WITH_CODE = {
    module: path
    for module, path in MODULES.items()
    if path.name != "__init__.py" and has_code(path.read_text())
}


@pytest.mark.parametrize("module", WITH_CODE)
def test_each_module_has_its_test_file(module: str) -> None:
    if module not in UNTESTED:
        twin = twin_of(WITH_CODE[module])
        assert twin.is_file(), f"{module} has no {twin.relative_to(ROOT)}"


@pytest.mark.parametrize(
    "test", sorted(UNIT.rglob("test_*.py")), ids=lambda path: str(path.relative_to(UNIT))
)
def test_each_test_file_has_its_module(test: Path) -> None:
    source = source_of(test)
    assert source.is_file() or source.with_suffix(".pyx").is_file(), (
        f"{test.relative_to(ROOT)} mirrors no {source.relative_to(ROOT)}"
    )


def test_exceptions_are_needed() -> None:
    for module, reason in UNTESTED.items():
        assert module in WITH_CODE, f"{module} does not exist or has no code"
        assert not twin_of(WITH_CODE[module]).exists(), f"{module} has a test file"
        assert len(reason) > 20, f"{module}: say why"


def test_the_rule_knows_code_when_it_sees_it() -> None:
    assert twin_of(SOURCE / "wire" / "codec.py") == UNIT / "wire" / "test_codec.py"
    assert source_of(UNIT / "wire" / "test_codec.py") == SOURCE / "wire" / "codec.py"
    assert not has_code('"""Doc."""\nfrom .codec import decode\n__all__ = ["decode"]\n')
    assert has_code("from .codec import decode\nMAX = 1\n")
    assert has_code("def f(): ...")
    assert "tailrace.wire.codec" in WITH_CODE
