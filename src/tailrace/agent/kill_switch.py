"""The kill switch: a file in the state directory that stops the agent from opening tunnels.

It is a file so that anything can set it, with or without an agent that runs: ``disabled``, and in
it ``now`` if the tunnels that are up are to end as well. It holds no secret and is readable by
all, because root may set it for an agent that runs as another user.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Final

from ..common.atomic_files import write_atomically
from ..errors import ConfigurationError

__all__ = ["KillSwitch", "read_kill_switch", "set_kill_switch"]

_NAME: Final = "disabled"
_NOW: Final = b"now\n"
_MODE: Final = 0o644


class KillSwitch(Enum):
    """Whether tunnels may be opened."""

    OFF = "off"
    """They may."""
    NO_NEW = "no new tunnels"
    """Those that are up go on, no others are opened."""
    NONE = "no tunnels"
    """Those that are up end."""


def read_kill_switch(directory: Path) -> KillSwitch:
    """Return what the switch of a state directory says; one that cannot be read is set."""
    try:
        handle = os.open(directory / _NAME, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return KillSwitch.OFF
    except OSError:
        return KillSwitch.NO_NEW
    try:
        content = os.read(handle, len(_NOW))
    except OSError:
        return KillSwitch.NO_NEW
    finally:
        os.close(handle)
    return KillSwitch.NONE if content.strip() == _NOW.strip() else KillSwitch.NO_NEW


def set_kill_switch(directory: Path, switch: KillSwitch) -> None:
    """Set the switch of a state directory, for agents that run and those that will.

    Raises:
        ConfigurationError: there is no such directory, or it cannot be written to.
    """
    path = directory / _NAME
    if not directory.is_dir():
        raise ConfigurationError(
            f"no agent keeps its state in {directory}: no such directory", setting="state_dir"
        )
    try:
        if switch is KillSwitch.OFF:
            path.unlink(missing_ok=True)
            return
        content = _NOW if switch is KillSwitch.NONE else b""
        write_atomically(path, content, _MODE, despite_umask=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
