"""Where this user's commands keep files: XDG base directories, and those of the system for root."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigurationError

__all__ = ["runtime_directory", "state_directory"]

_NAME = "tailrace"


def state_directory(environment: Mapping[str, str]) -> Path:
    """Return the directory of what outlives a command. It may not exist yet.

    Raises:
        ConfigurationError: it is below the user's home directory, which is not known.
    """
    base = environment.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / _NAME
    try:
        return Path.home() / ".local" / "state" / _NAME
    except RuntimeError:
        raise ConfigurationError(
            "this user has no home directory: set HOME or XDG_STATE_HOME", setting="state_dir"
        ) from None


def runtime_directory(environment: Mapping[str, str]) -> Path:
    """Return the directory of sockets of commands that run. It may not exist yet.

    Raises:
        ConfigurationError: it is below the user's home directory, which is not known.
    """
    base = environment.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base):
        return Path(base) / _NAME
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/run") / _NAME
    return state_directory(environment) / "run"
