"""Arguments that several commands of ``tailrace`` have."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, Final, TypeAlias

__all__ = [
    "RESUME_TIMEOUT",
    "RESUME_TIMEOUT_HELP",
    "Subparsers",
    "add_state_dir",
    "resume_timeout",
    "state_dir_of",
    "subparsers_of",
]

RESUME_TIMEOUT: Final = 120.0
RESUME_TIMEOUT_HELP: Final = (
    "let open connections wait this long for a lost link, or a peer that has left, to come back; "
    f"0 ends them at once (default: {RESUME_TIMEOUT:.0f})"
)
_DAY: Final = 86_400.0

Subparsers: TypeAlias = "argparse._SubParsersAction[Any]"


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    """Add ``--state-dir`` to a parser and its commands; :func:`state_dir_of` reads it."""
    for each in (parser, *subparsers_of(parser).values()):
        each.add_argument(
            "--state-dir",
            metavar="DIR",
            type=Path,
            # Behind a command, its absence says nothing about what was in front of it.
            default=None if each is parser else argparse.SUPPRESS,
            help="directory of the service's files (default: ~/.local/state/tailrace)",
        )


def resume_timeout(text: str) -> float:
    """Return the seconds that ``--resume-timeout`` gives.

    Raises:
        ArgumentTypeError: they are not 0 to a day.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _DAY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 to {_DAY:.0f}")
    return seconds


def state_dir_of(args: argparse.Namespace) -> Path:
    """Return the absolute path of the state directory of the service."""
    from ..service.config import default_state_dir  # slow, and tailrace tunnel needs none of it

    chosen: Path = args.state_dir or default_state_dir(os.environ)
    return chosen.absolute()


def subparsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands below a parser by their names."""
    return {
        name: each
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, each in action.choices.items()
    }
