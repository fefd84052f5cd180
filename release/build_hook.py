"""What hatchling calls for a wheel: it adds manual pages and completions, from the option tables.

They go where shells and man(1) look below the prefix of an environment: ``share/man``,
``share/bash-completion``, ``share/zsh`` and ``share/fish``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["SharedFiles"]


class SharedFiles(BuildHookInterface[Any]):
    """Writes the files before a wheel is built; an editable installation goes without."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to the wheel."""
        if version == "editable":
            return
        self._directory = tempfile.TemporaryDirectory(prefix="tailrace-share-")
        home = Path(self._directory.name)
        sys.path[:0] = [self.root, str(Path(self.root, "src"))]
        try:
            from release.shared_files import write_shared_files

            written = write_shared_files(home, self.metadata.version)
        finally:
            del sys.path[:2]
        for path in written:
            build_data["shared_data"][str(home / path)] = f"share/{path}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was written."""
        if version != "editable":
            self._directory.cleanup()
