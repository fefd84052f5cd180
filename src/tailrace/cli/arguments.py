"""Arguments that several commands of ``tailrace`` have."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Subparsers", "add_state_dir", "state_dir_of", "subparsers_of"]

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
