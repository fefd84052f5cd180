"""The package's own source files, for tests about how the house is built."""

from __future__ import annotations

from pathlib import Path

__all__ = ["MODULES", "PACKAGE", "ROOT", "SOURCE"]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "tailrace"
SOURCE = ROOT / "src" / PACKAGE


def _dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {_dotted(path): path for path in sorted(SOURCE.rglob("*.py"))}
"""Dotted name -> file of every module of the package."""

assert f"{PACKAGE}.wire.codec" in MODULES
