"""The command line: ``python -m soak.agent``."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from support.processes.mosquitto import is_installed

from .rounds import FAULTS
from .runner import Plan, soak, table

__all__ = ["main"]


def _say(text: str) -> None:
    print(text, flush=True)


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
    add("--seed", type=int, default=0, help="another one makes other choices")
    add("--fault", action="append", choices=FAULTS, help="keep to this one; may be repeated")
    add("--keep", type=Path, help="keep logs and state in this directory")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak of the agent; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in ("rounds", "openings", "tunnels", "most_seconds"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
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
    # No process is left behind by a run that is ended from outside.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = options.keep or Path(tempfile.mkdtemp(prefix="tailrace-soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        outcome = asyncio.run(soak(plan, directory, _say))
    except KeyboardInterrupt:
        _say("interrupted")
        return 1
    finally:
        if options.keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    _say(table(outcome))
    for story in outcome.figures.stories:
        _say(f"\n{story}")
    return 1 if outcome.figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
