"""The command line: ``python -m soak``."""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from .command import Say, add_seed_and_keep, require_positive, run
from .load import Volume
from .report import table
from .runner import Plan, soak

__all__ = ["main"]


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
    add_seed_and_keep(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    require_positive(parser, options, "minutes", "tunnels", "clients", "pause", "bulk")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = Plan(
        options.minutes * 60,
        options.tunnels,
        options.fault_every,
        Volume(options.bulk, options.pause, options.clients),
        options.seed,
    )

    async def job(directory: Path, say: Say) -> tuple[str, Sequence[str]]:
        figures, watch = await soak(plan, directory, say)
        return table(figures, watch.final, plan.seconds), figures.stories

    return run(job, options.keep)


if __name__ == "__main__":
    sys.exit(main())
