"""What the command lines of all soaks have in common."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Job", "Say", "add_seed_and_keep", "require_positive", "run", "say"]

Say: TypeAlias = Callable[[str], None]
Job: TypeAlias = Callable[[Path, Say], Coroutine[Any, Any, tuple[str, Sequence[str]]]]
"""A soak that runs in a directory; returns its table, and what has failed."""


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def add_seed_and_keep(parser: argparse.ArgumentParser) -> None:
    """Add the options that every soak has."""
    parser.add_argument("--seed", type=int, default=0, help="another one makes other choices")
    parser.add_argument("--keep", type=Path, help="keep logs and state in this directory")


def require_positive(
    parser: argparse.ArgumentParser, options: argparse.Namespace, *names: str
) -> None:
    """End the command with status 2 if an option is not above 0."""
    for name in names:
        if not getattr(options, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")


def run(job: Job, keep: Path | None) -> int:
    """Run a soak and show what came of it; return the exit status.

    Args:
        keep: the directory to run in, which stays; or None for one that is removed.
    """
    # No process is left behind by a run that is ended from outside.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = keep or Path(tempfile.mkdtemp(prefix="tailrace-soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        table, failures = asyncio.run(job(directory, say))
    except KeyboardInterrupt:
        say("interrupted")
        return 1
    finally:
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    say(table)
    for failure in failures:
        say(f"\n{failure}")
    return 1 if failures else 0
