"""``python -m bench.instructions``: machine instructions for one message of the hot paths.

Instructions do not depend on what else the machine does, so a regression of a few per
cent shows anywhere. Counted by ``perf`` where the kernel lets it see the counters, else
by ``valgrind --tool=callgrind``; the two do not count quite the same, so only results
of one tool are comparable. Start-up is left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .contenders.base import find_tool
from .errors import BenchError, Unavailable
from .generators import python_path
from .hotpaths import MARK, PATHS, SIZES, path_named

__all__ = ["main"]

_WORKER: Final = (sys.executable, "-m", "bench.hotpaths")
_FEW: Final = 1600
_MANY: Final = 16_000
"""Messages that ``perf`` sees."""
_MARKED: Final = 1600
"""Messages that callgrind sees, which is fifty times slower."""
_TIMEOUT: Final = 600.0
_TOLERANCE: Final = 0.02
"""Share by which a count may grow before it is called worse."""


@dataclass(frozen=True, slots=True)
class _Count:
    """Instructions of one path for one message."""

    path: str
    size: int
    instructions: float


def main(argv: Sequence[str] | None = None) -> int:
    """Count and print; return 2 when ``--baseline`` is exceeded."""
    arguments = _parser().parse_args(argv)
    try:
        tool = _choose(arguments.tool)
        counts = _count_all(tool, arguments.path, arguments.profile)
        return _report(tool, counts, arguments)
    except (BenchError, Unavailable, OSError, ValueError) as error:
        print(f"bench.instructions: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions",
        description="Count the machine instructions that one message costs.",
    )
    names = ", ".join(f"'{path.name}'" for path in PATHS)
    parser.add_argument(
        "--path", action="append", metavar="NAME", help=f"only this one; may be repeated: {names}"
    )
    parser.add_argument("--tool", choices=("auto", "perf", "callgrind"), default="auto")
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


def _choose(tool: str) -> str:
    """Return the tool to count with.

    Raises:
        Unavailable: there is none.
    """
    if tool in ("auto", "perf") and find_tool("perf") is not None:
        try:
            _perf([sys.executable, "-c", ""])
            return "perf"
        except BenchError as error:
            if tool == "perf":
                raise Unavailable(f"perf cannot count instructions here: {error}") from None
    if tool in ("auto", "callgrind") and find_tool("valgrind") is not None:
        return "callgrind"
    raise Unavailable("install valgrind, or perf with access to the hardware's counters")


def _count_all(tool: str, names: Sequence[str] | None, profile: Path | None) -> list[_Count]:
    chosen = [path_named(name).name for name in names] if names else [path.name for path in PATHS]
    works = [(name, size) for name in chosen for size in SIZES]
    # Nobody wants to count the compilation of modules.
    _run([*_WORKER, "1", f"{PATHS[0].name}:64"])
    if tool == "perf":
        found = [_count_with_perf(name, size) for name, size in works]
    elif profile is not None:
        profile.mkdir(parents=True, exist_ok=True)
        found = _callgrind(works, profile / "callgrind.out")
    else:
        with tempfile.TemporaryDirectory() as directory:
            found = _callgrind(works, Path(directory) / "callgrind.out")
    return [_Count(name, size, count) for (name, size), count in zip(works, found, strict=True)]


def _count_with_perf(name: str, size: int) -> float:
    """Run it with different numbers of messages: the difference leaves out start-up."""
    few, many = (_perf([*_WORKER, str(count), f"{name}:{size}"]) for count in (_FEW, _MANY))
    return (many - few) / (_MANY - _FEW)


def _perf(words: list[str]) -> int:
    command = ["perf", "stat", "-x,", "-e", "instructions:u", "--", *words]
    text = _run(command)
    match = re.search(r"^(\d+),,instructions:u", text, re.MULTILINE)
    if match is None:
        raise BenchError(text.strip().splitlines()[-1] if text.strip() else "no count")
    return int(match[1])


def _callgrind(works: Sequence[tuple[str, int]], out: Path) -> list[float]:
    """Run everything in one process; the marks cut its profile into parts.

    Parts 1, 3, 5, … are start-up and warm-up, parts 2, 4, 6, … the paths.
    """
    options = [f"--callgrind-out-file={out}", f"--dump-before={MARK}"]
    words = [*_WORKER, str(_MARKED), *(f"{name}:{size}" for name, size in works)]
    _run(["valgrind", "--tool=callgrind", *options, "--", *words])
    counts = []
    for at in range(len(works)):
        part = out.with_name(f"{out.name}.{2 * at + 2}")
        match = re.search(r"^totals: (\d+)", part.read_text(), re.MULTILINE)
        if match is None:
            raise BenchError("valgrind gave no count")
        counts.append(int(match[1]) / _MARKED)
    return counts


def _run(command: list[str]) -> str:
    """Run a command and return what it wrote to standard error."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, env=_environment()
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} took longer than {_TIMEOUT:g} s") from None
    if done.returncode:
        raise BenchError(f"{command[0]}: {done.stderr.strip()[-300:]}")
    return done.stderr


def _environment() -> dict[str, str]:
    return {**python_path(), "PATH": "/usr/bin:/bin:/usr/sbin:/usr/local/bin", "LC_ALL": "C"}


def _report(tool: str, counts: Sequence[_Count], arguments: argparse.Namespace) -> int:
    before = _read(arguments.baseline, tool) if arguments.baseline is not None else {}
    print(f"Instructions for one message ({tool}, CPython {platform.python_version()})")
    worse = False
    for count in counts:
        line = f"  {count.path:<26} {count.size:>6} B  {count.instructions:>10,.0f}"
        old = before.get((count.path, count.size))
        if old:
            change = count.instructions / old - 1
            worse = worse or change > _TOLERANCE
            line += f"  {change * 100:+.1f} %{'  WORSE' if change > _TOLERANCE else ''}"
        print(line)
    if arguments.write is not None:
        document = {
            "tool": tool,
            "python": platform.python_version(),
            "counts": [[c.path, c.size, round(c.instructions, 1)] for c in counts],
        }
        arguments.write.write_text(json.dumps(document, indent=1) + "\n")
    return 2 if worse else 0


def _read(path: Path, tool: str) -> dict[tuple[str, int], float]:
    document: dict[str, Any] = json.loads(path.read_text())
    if document.get("tool") != tool:
        raise BenchError(f"{path} was counted with {document.get('tool')}, not with {tool}")
    return {(name, size): count for name, size, count in document["counts"]}


if __name__ == "__main__":
    sys.exit(main())
