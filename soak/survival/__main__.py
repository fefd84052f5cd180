"""The command line: ``python -m soak.survival``."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command import Say, add_seed_and_keep, require_positive, run
from .runner import Plan, soak, table

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m soak.survival",
        description="Keep one ssh session, a transfer each way that lasts as long as the run, and "
        "others beside it, while links are cut, the service is killed, and nothing passes. Ends "
        "with status 1 if the shell is another one, a digest is wrong, or memory is over its "
        "bounds.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = Plan()
    add = parser.add_argument
    add("--cuts", type=int, default=default.cuts, help="links of either end, or of both, dropped")
    add("--kills", type=int, default=default.kills, help="kill -9 and restart of the service")
    add("--silences", type=int, default=default.silences, help="black holes")
    add("--longest-silence", type=float, default=default.longest_silence, help="in seconds")
    add("--size", type=int, default=default.size, help="bytes of a transfer, each way")
    add("--rate", type=float, default=default.rate, help="bytes a second of a link, each way")
    add("--pause", type=float, default=default.pause, help="seconds between two faults, at most")
    add_seed_and_keep(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak of survival; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    require_positive(parser, options, "longest_silence", "size", "rate")
    if shutil.which("ssh") is None:
        parser.error("ssh is not installed: make apt installs it")
    given = vars(options)
    keep: Path | None = given.pop("keep")
    plan = Plan(**given)

    async def job(directory: Path, say: Say) -> tuple[str, Sequence[str]]:
        outcome = await soak(plan, directory, say)
        return table(outcome), outcome.failures

    return run(job, keep)


if __name__ == "__main__":
    sys.exit(main())
