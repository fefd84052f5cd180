"""The command line: ``python -m soak.survival``."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .runner import Plan, soak, table

__all__ = ["main"]


def _say(text: str) -> None:
    print(text, flush=True)


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
    add("--seed", type=int, default=default.seed, help="another one makes other choices")
    add("--keep", type=Path, help="keep logs and state in this directory")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak of survival; return the exit status."""
    options = vars(_parser().parse_args(arguments))
    keep: Path | None = options.pop("keep")
    plan = Plan(**options)
    if shutil.which("ssh") is None:
        _say("ssh is not installed: make apt installs it")
        return 2
    # No process is left behind by a run that is ended from outside.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = keep or Path(tempfile.mkdtemp(prefix="tailrace-soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        outcome = asyncio.run(soak(plan, directory, _say))
    except KeyboardInterrupt:
        _say("interrupted")
        return 1
    finally:
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    _say(table(outcome))
    for failure in outcome.failures:
        _say(f"\n{failure}")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
