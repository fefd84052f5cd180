"""The archive that holds the whole package, where Python runs it from one (zipapp)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["single_file"]


def single_file() -> Path | None:
    """Return the archive that this package is in, ``None`` if it is a directory."""
    home = Path(__file__).parents[2]
    return home if home.is_file() else None
