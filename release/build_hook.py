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

__all__ = ["SharedFiles", "SharedFilesHook"]


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


class SharedFilesHook(BuildHookInterface[Any]):
    """Adds the files to a wheel; an editable installation goes without."""

    PLUGIN_NAME = "custom"
    _files: SharedFiles | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files."""
        if version != "editable":
            self._files = SharedFiles(self.root, self.metadata.version)
            build_data["shared_data"].update(self._files.in_wheel)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was written."""
        if self._files is not None:
            self._files.remove()
