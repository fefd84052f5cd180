"""The local proxy under test: ours over one of its link back ends, or any other command."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.processes.child import clean_environment, installed

__all__ = ["LINKS", "Target"]

LINKS: Final = ("picows", "websockets")
"""Link back ends of ours, the one it prefers first."""

_OUR_PATIENCE: Final = 100.0
_THEIR_PATIENCE: Final = 15.0
_TRUST: Final = "SSL_CERT_FILE"


@dataclass(frozen=True)
class Target:
    """A command that takes the options of the C++ local proxy."""

    command: tuple[str, ...]
    is_ours: bool
    name: str
    """As in the table of results; no path."""
    patience: float
    """Seconds a scenario may take in all."""

    @classmethod
    def ours(cls, link: str) -> Target:
        """Return our own command, over a link back end."""
        command = (installed("localproxy"), "--link", link, "--no-state")
        return cls(command, True, f"tailrace, {link}", _OUR_PATIENCE)

    @classmethod
    def foreign(cls, path: str) -> Target:
        """Return another implementation, named after its version."""
        command = str(Path(path).resolve())
        asked = subprocess.run(
            [command, "--version"],
            capture_output=True,
            text=True,
            timeout=_THEIR_PATIENCE,
            env=clean_environment(),
            check=False,
        )
        version = re.search(r"\bv\d[\w.+-]*", asked.stdout)
        name = f"{Path(path).name} {version.group()}" if version else Path(path).name
        return cls((command,), False, name, _THEIR_PATIENCE)

    @property
    def key(self) -> str:
        """The name as part of a file name."""
        return re.sub(r"[^\w.]+", "-", self.name)

    def environment(self, trusted: Path, **extra: str) -> dict[str, str]:
        """Return an environment in which only one certificate file is trusted."""
        return clean_environment(**{_TRUST: str(trusted)} | extra)
