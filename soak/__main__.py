"""The command line: ``python -m soak``."""

from __future__ import annotations

import argparse
import asyncio
import resource
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .load import Volume
from .report import table
from .runner import Plan, soak

__all__ = ["main"]


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m soak",
        description="Run tunnels through a service under mixed load and random faults, all as "
        "real processes on this machine, and check every byte. Ends with status 1 on a wrong "
        "byte, a crash, a leak, or a connection that hangs or ends without a reason.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, help="how long")
    add("--tunnels", type=int, default=20, help="tunnels; each has two processes")
    add("--clients", type=int, default=2, help="clients of each tunnel")
    add("--pause", type=float, default=2.0, help="seconds between a client's connections")
    add("--bulk", type=int, default=1_000_000, help="bytes of a bulk transfer at most")
    add("--fault-every", type=float, default=2.5, help="seconds between two faults; 0: no faults")
    add("--seed", type=int, default=0, help="another one makes other choices")
    add("--keep", type=Path, help="keep logs and state in this directory")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in ("minutes", "tunnels", "clients", "pause", "bulk"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be above 0")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = Plan(
        options.minutes * 60,
        options.tunnels,
        options.fault_every,
        Volume(options.bulk, options.pause, options.clients),
        options.seed,
    )
    directory = options.keep or Path(tempfile.mkdtemp(prefix="tailrace-soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        figures, watch = asyncio.run(soak(plan, directory, _say))
    except KeyboardInterrupt:
        _say("interrupted")
        return 1
    finally:
        if options.keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    _say(table(figures, watch.final, plan.seconds))
    for story in figures.stories:
        _say(f"\n{story}")
    return 1 if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
