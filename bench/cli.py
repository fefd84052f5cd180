"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .contenders.registry import NAMES, all_contenders
from .errors import BenchError
from .model import Results
from .report import checks, tables
from .report.write import publish, write_report
from .runner import Plan, run
from .scenarios.base import Scenario
from .scenarios.registry import all_scenarios
from .selection import Selection, parse_parts

__all__ = ["main"]

RESULTS: Final = Path(__file__).resolve().parent / "results"
_ROUNDS: Final = 5
_QUICK_ROUNDS: Final = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, or print what an earlier run has found."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.list:
            return _list()
        if arguments.render:
            results = Results.merged(Results.read(path) for path in arguments.render)
            for scenario in all_scenarios():
                _show(results, scenario)
        else:
            results = run(_plan(arguments), _show)
        return _finish(results, arguments)
    except (BenchError, ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure tailrace beside other ways to carry TCP connections: real "
        "processes, one machine, alternating, medians of several rounds.",
    )
    parser.add_argument("--quick", action="store_true", help="short measurements, two rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds (default: {_ROUNDS})")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--only",
        action="append",
        metavar="SCENARIO[:CASE],...",
        help="only these scenarios, or single cases of them; may be repeated",
    )
    what.add_argument(
        "--must-hold",
        action="store_true",
        help="only what the figures that must hold are made of",
    )
    parser.add_argument(
        "--contender",
        action="append",
        metavar="NAME",
        help=f"only this one; may be repeated ({', '.join(NAMES)})",
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=[@BIN] [VARIABLE=VALUE]... [ARGUMENT]...",
        help="one more contender: tailrace with these arguments of localproxy and variables, "
        "from another virtual environment's bin directory; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="list scenarios and contenders")
    parser.add_argument(
        "--render",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="run nothing: report on the JSON of earlier runs (scenarios of later files win)",
    )
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="also compare with the JSON of another run"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="where JSON, Markdown and plot go (default: bench/results)",
    )
    parser.add_argument(
        "--publish",
        type=Path,
        metavar="README",
        help="also write what belongs to the repository: latest.* there and this file's table",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 2 when a figure that must hold does not"
    )
    return parser


def _plan(arguments: argparse.Namespace) -> Plan:
    available = all_scenarios()
    parts = parse_parts(arguments.only or (), {scenario.name for scenario in available})
    selection = Selection(checks.needed() if arguments.must_hold else parts)
    scenarios = [scenario for scenario in available if selection.has(scenario.name)]
    contenders = all_contenders(arguments.variant)
    named = set(arguments.contender or ()) | {text.partition("=")[0] for text in arguments.variant}
    if arguments.contender:
        unknown = named - {contender.name for contender in contenders}
        if unknown:
            raise BenchError(f"no such contender: {', '.join(sorted(unknown))}; try --list")
        contenders = [contender for contender in contenders if contender.name in named]
    rounds = arguments.rounds
    if rounds is None:
        rounds = _QUICK_ROUNDS if arguments.quick else _ROUNDS
    if rounds < 1:
        raise BenchError("--rounds must be at least 1")
    return Plan(scenarios, contenders, rounds, arguments.quick, selection)


def _list() -> int:
    print("Scenarios:")
    for scenario in all_scenarios():
        print(f"  {scenario.name:<14} {scenario.missing() or scenario.title}")
    print("Contenders:")
    for contender in all_contenders():
        missing = contender.missing()
        note = f"{contender.description} (missing: {missing})" if missing else contender.description
        print(f"  {contender.name:<14} {note}")
    return 0


def _show(results: Results, scenario: Scenario) -> None:
    text = tables.terminal(results, scenario)
    if text:
        print(f"\n{text}\n", flush=True)


def _finish(results: Results, arguments: argparse.Namespace) -> int:
    """Show the summary, write the files, judge."""
    if not results.samples and not results.failures:
        raise BenchError("nothing was measured: try --list, and other cases")
    verdicts = checks.judge(results)
    for text in filter(None, (tables.slopes(results), tables.verdicts(verdicts))):
        print(text)
    if arguments.baseline is not None:
        print(tables.comparison(Results.read(arguments.baseline), results))
    written = [] if arguments.render else write_report(results, verdicts, arguments.output)
    if arguments.publish is not None:
        written += publish(results, verdicts, arguments.output, arguments.publish)
    for path in written:
        print(f"wrote {path}", file=sys.stderr)
    failed = any(verdict.holds is False for verdict in verdicts)
    return 2 if failed and arguments.strict else 0
