"""The files below ``share`` that come with the package.

``python -m release.shared_files DIR`` writes them for packages that are not built as a wheel.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tailrace

from .completions import completion_files
from .manual import manual_pages

__all__ = ["main", "write_shared_files"]


def write_shared_files(home: Path, version: str) -> list[str]:
    """Write all files below a directory; return their paths, relative to it."""
    pages = {f"man/man1/{name}": text for name, text in manual_pages(version).items()}
    files = pages | dict(completion_files())
    for name, text in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return sorted(files)


def main(directory: str) -> None:
    """Write the files for the version of the sources."""
    write_shared_files(Path(directory), tailrace.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
