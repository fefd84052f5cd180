"""The command line: ``python -m fuzz``."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from .registry import TARGETS
from .report import Progress, table
from .runner import Tally, run_all

__all__ = ["main"]

_DIRECTORY: Final = Path("build/fuzz")


class _Formatting(logging.Handler):
    """Does with records what a handler does, but for the writing."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()


class _Stop:
    """Remembers SIGINT and SIGTERM: an exception in a handler gets lost where nobody may raise."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True


def _keep(tally: Tally, directory: Path) -> Path:
    path = directory / f"finding-{tally.target.name}.txt"
    path.write_text(tally.finding, encoding="utf-8", errors="backslashreplace")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fuzz",
        description="Give made-up inputs to everything that takes inputs from outside. Ends with "
        "status 1 when something leaves a target that is not one of the errors it allows.",
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="CPU time in all (default: %(default)g)"
    )
    parser.add_argument("--directory", type=Path, default=_DIRECTORY, help="for findings")
    parser.add_argument("--list", action="store_true", help="list the targets and end")
    parser.add_argument("names", nargs="*", metavar="TARGET", help="only these targets")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the targets that were named, all of them by default; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        for target in TARGETS.values():
            print(f"{target.name:20} {target.about}")
        return 0
    unknown = [name for name in options.names if name not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]!r}: see --list")
    if not options.minutes > 0:
        parser.error("--minutes must be above 0")
    options.directory.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("tailrace")
    logger.addHandler(_Formatting())
    logger.propagate = False
    targets = [TARGETS[name] for name in options.names or TARGETS]
    stop = _Stop()
    tallies = [Tally(target, stopped=stop) for target in targets]
    progress = Progress(options.minutes * 60, time.monotonic, sys.stdout)

    def tell(tally: Tally) -> None:
        progress.told(tally)
        if tally.finding:
            path = _keep(tally, options.directory)
            print(f"{path}:\n{tally.finding}", flush=True)

    interrupted = False
    try:
        run_all(tallies, options.minutes * 60, options.directory, tell)
    except KeyboardInterrupt:
        interrupted = True
    print(table(tallies))
    if interrupted:
        print("interrupted: the budget was not used up", file=sys.stderr)
    return 1 if any(tally.finding for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
