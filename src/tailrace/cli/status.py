"""``tailrace status`` and ``tailrace watch`` show what runs on this machine."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from .arguments import Subparsers

__all__ = ["add_status_parser", "add_watch_parser", "run_status", "run_watch"]

_INTERVAL: Final = 2.0
_SHORTEST, _LONGEST = 0.1, 3600.0
_ABOUT: Final = (
    "local proxies, agents and services of this user, of all users for root: their tunnels, links, "
    "connections and bytes"
)


def add_status_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``status``; its arguments go to :func:`run_status`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "status",
        help="show what runs on this machine",
        description=f"Show what runs on this machine: {_ABOUT}.",
    )
    _add_options(parser, "write one document in JSON")
    return parser


def add_watch_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``watch``; its arguments go to :func:`run_watch`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "watch",
        help="show what runs on this machine, again and again",
        description=f"Show what runs on this machine until Ctrl-C: {_ABOUT}.",
    )
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=float,
        default=_INTERVAL,
        help=f"time between two looks, {_SHORTEST:g} to {_LONGEST:g} (default: %(default)g)",
    )
    parser.add_argument(
        "--count", metavar="COUNT", type=int, default=0, help="end after COUNT looks"
    )
    _add_options(parser, "write one document in JSON for each look, a line each")
    return parser


def _add_options(parser: argparse.ArgumentParser, json_help: str) -> None:
    parser.add_argument("--json", action="store_true", help=json_help)
    parser.add_argument(
        "--runtime-dir",
        metavar="DIR",
        action="append",
        type=Path,
        default=[],
        help="look for control sockets in DIR, and not where they are by default; may be repeated",
    )


def run_status(args: argparse.Namespace) -> None:
    """Show what runs.

    Raises:
        ConfigurationError: a directory cannot be used.
    """
    import asyncio

    from ..operator.processes import directories
    from ..operator.watch import look

    places = directories(os.environ, args.runtime_dir)
    asyncio.run(look(places, sys.stdout, as_json=args.json))


def run_watch(args: argparse.Namespace) -> None:
    """Show what runs until Ctrl-C.

    Raises:
        ConfigurationError: a directory cannot be used, or an option is not valid.
    """
    import asyncio

    from ..operator.processes import directories
    from ..operator.watch import watch

    if not _SHORTEST <= args.interval <= _LONGEST:
        raise ConfigurationError(
            f"--interval {args.interval:g} is not from {_SHORTEST:g} to {_LONGEST:g}"
        )
    if args.count < 0:
        raise ConfigurationError(f"--count {args.count} is negative")
    places = directories(os.environ, args.runtime_dir)
    asyncio.run(
        watch(places, sys.stdout, as_json=args.json, interval=args.interval, count=args.count)
    )
