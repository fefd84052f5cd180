"""The command line: ``python -m soak.agent``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from support.processes.mosquitto import is_installed

from ..command import Say, add_seed_and_keep, require_positive, run
from .rounds import FAULTS
from .runner import Plan, soak, table

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m soak.agent",
        description="Run two device agents, one at a broker and one that waits at the service, "
        "measure how soon their tunnels are up, and restart, cut and rotate everything at random. "
        "Ends with status 1 if a tunnel does not come up, or is slow, on a wrong byte, a crash, "
        "or a leak.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=100, help="faults, one after the other")
    add("--openings", type=int, default=20, help="tunnels of each agent whose time is measured")
    add("--tunnels", type=int, default=20, help="tunnels at once, and no more")
    add("--most-seconds", type=float, default=1.0, help="from OpenTunnel to connected, at most")
    add("--fault", action="append", choices=FAULTS, help="keep to this one; may be repeated")
    add_seed_and_keep(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak of the agent; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    require_positive(parser, options, "rounds", "openings", "tunnels", "most_seconds")
    if not is_installed():
        parser.error("mosquitto is not installed: make apt installs it")
    plan = Plan(
        options.rounds,
        options.openings,
        options.tunnels,
        options.most_seconds,
        options.seed,
        tuple(options.fault or ()),
    )

    async def job(directory: Path, say: Say) -> tuple[str, Sequence[str]]:
        outcome = await soak(plan, directory, say)
        return table(outcome), outcome.figures.stories

    return run(job, options.keep)


if __name__ == "__main__":
    sys.exit(main())
