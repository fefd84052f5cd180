"""What a wheel gets beside the package: manual pages and completions, from the option tables.

They go where shells and man(1) look below the prefix of an environment: ``share/man``,
``share/bash-completion``, ``share/zsh`` and ``share/fish``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

__all__ = ["SharedFiles"]


class SharedFiles:
    """The files of one build, in a directory until it is done."""

    def __init__(self, root: str, version: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="tailrace-share-")
        home = Path(self._directory.name)
        sys.path[:0] = [root, str(Path(root, "src"))]
        try:
            from release.shared_files import write_shared_files

            written = write_shared_files(home, version)
        finally:
            del sys.path[:2]
        self.in_wheel = {str(home / path): f"share/{path}" for path in written}
        """File -> path below the prefix of an environment."""

    def remove(self) -> None:
        """Remove the directory."""
        self._directory.cleanup()
