"""``python -m bench.instructions``: machine instructions for one message of the hot paths.

Instructions do not depend on what else the machine does, so a regression of a few per
cent shows anywhere. Counted by ``valgrind --tool=callgrind``, without start-up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from tailrace.common.extension import VARIABLE

from .hotpaths import MARK, PATHS, SIZES
from .processes import BenchError, python_path

__all__ = ["main"]

_WORKER: Final = (sys.executable, "-m", "bench.hotpaths")
_TOOL: Final = "callgrind"
_MESSAGES: Final = 1600
_TIMEOUT: Final = 600.0
_TOLERANCE: Final = 0.02
"""Share by which a count may grow before it is called worse."""


_Counts: TypeAlias = dict[tuple[str, int], float]
"""Path and size -> instructions for one message."""


def main(argv: Sequence[str] | None = None) -> int:
    """Count and print; return 2 when ``--baseline`` is exceeded."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.profile is None:
            with tempfile.TemporaryDirectory() as directory:
                return _report(_count(Path(directory)), arguments)
        arguments.profile.mkdir(parents=True, exist_ok=True)
        return _report(_count(arguments.profile), arguments)
    except (BenchError, OSError, ValueError) as error:
        print(f"bench.instructions: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions",
        description="Count the machine instructions that one message costs.",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the counts as JSON")
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help=f"compare with kept counts; more than {_TOLERANCE:.0%}% above them is an error",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="DIR",
        help="keep callgrind's files there, two for each path and size, the second of which is it",
    )
    return parser


def _count(directory: Path) -> _Counts:
    """Run everything in one process; the marks cut its profile into parts.

    Parts 1, 3, 5, … are start-up and warm-up, parts 2, 4, 6, … the paths.
    """
    out = directory.absolute() / "callgrind.out"
    works = [(path.name, size) for path in PATHS for size in SIZES]
    options = [f"--callgrind-out-file={out}", f"--dump-before={MARK}"]
    words = [*_WORKER, str(_MESSAGES), *(f"{name}:{size}" for name, size in works)]
    # Nobody wants to count the compilation of modules.
    _run([*_WORKER, "1", f"{PATHS[0].name}:64"])
    _run(["valgrind", "--tool=callgrind", *options, "--", *words])
    counts: _Counts = {}
    for at, (name, size) in enumerate(works, 1):
        part = out.with_name(f"{out.name}.{2 * at}")
        match = re.search(r"^totals: (\d+)", part.read_text(), re.MULTILINE)
        if match is None:
            raise BenchError("valgrind gave no count")
        counts[name, size] = int(match[1]) / _MESSAGES
    return counts


def _run(command: list[str]) -> None:
    environment = {**python_path(), "PATH": "/usr/bin:/bin:/usr/sbin:/usr/local/bin", "LC_ALL": "C"}
    if VARIABLE in os.environ:
        environment[VARIABLE] = os.environ[VARIABLE]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT, env=environment
    )
    if done.returncode:
        raise BenchError(f"{command[0]}: {done.stderr.strip()[-300:]}")


def _report(counts: _Counts, arguments: argparse.Namespace) -> int:
    before = _read(arguments.baseline) if arguments.baseline is not None else {}
    print(f"Instructions for one message ({_TOOL}, CPython {platform.python_version()})")
    worse = False
    for (name, size), count in counts.items():
        line = f"  {name:<26} {size:>6} B  {count:>10,.0f}"
        old = before.get((name, size))
        if old:
            change = count / old - 1
            worse = worse or change > _TOLERANCE
            line += f"  {change * 100:+.1f} %{'  WORSE' if change > _TOLERANCE else ''}"
        print(line)
    if arguments.write is not None:
        document = {
            "tool": _TOOL,
            "python": platform.python_version(),
            "counts": [[*work, round(count, 1)] for work, count in counts.items()],
        }
        arguments.write.write_text(json.dumps(document, indent=1) + "\n")
    return 2 if worse else 0


def _read(path: Path) -> _Counts:
    document: dict[str, Any] = json.loads(path.read_text())
    if document.get("tool") != _TOOL:
        raise BenchError(f"{path} was counted with {document.get('tool')}, not with {_TOOL}")
    return {(name, size): count for name, size, count in document["counts"]}


if __name__ == "__main__":
    sys.exit(main())
