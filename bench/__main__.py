"""The command line: ``python -m bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .checks import judge
from .contenders import all_contenders
from .model import Results
from .processes import BenchError
from .report import publish, scenario_table, verdict_table, write_report
from .runner import Plan, run
from .scenarios import SCENARIOS, Scenario

__all__ = ["main", "parse_cases"]

_RESULTS: Final = Path(__file__).resolve().parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, or print what an earlier run has found."""
    arguments = _parser().parse_args(argv)
    try:
        show = (lambda *_: None) if arguments.must_hold else _show
        if arguments.render is not None:
            results = Results.read(arguments.render)
            for scenario in SCENARIOS:
                show(results, scenario)
        else:
            results = run(_plan(arguments), show)
        verdicts = judge(results)
        if verdicts:
            print("\nWhat must hold\n", *verdict_table(verdicts), sep="\n")
        written = []
        if arguments.publish is not None:
            written = publish(results, verdicts, arguments.output, arguments.publish)
        elif arguments.render is None:
            written = write_report(results, verdicts, arguments.output)
    except (BenchError, ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    for path in written:
        print(f"wrote {path}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure tailrace beside other ways to carry TCP connections: real "
        "processes, one machine, alternating, medians of several rounds.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="short measurements")
    add("--rounds", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    add("--only", default="", metavar="SCENARIO[:CASE],...", help="only these")
    add("--must-hold", action="store_true", help="print only what must hold, not all tables")
    add(
        "--contender",
        action="append",
        metavar="NAME",
        help="only this one, but in every scenario; may be repeated",
    )
    add(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=[@BIN] [VARIABLE=VALUE]... [ARGUMENT]...",
        help="one more contender: tailrace with these arguments of localproxy and variables, "
        "from another virtual environment's bin directory; may be repeated",
    )
    add("--render", type=Path, metavar="FILE", help="run nothing: report on the JSON of a run")
    add(
        "--output",
        type=Path,
        default=_RESULTS,
        metavar="DIR",
        help="where JSON and Markdown go (default: bench/results)",
    )
    add(
        "--publish",
        type=Path,
        metavar="README",
        help="write what belongs to the repository: latest.* there and this file's table",
    )
    return parser


def _plan(arguments: argparse.Namespace) -> Plan:
    if arguments.rounds < 1:
        raise BenchError("--rounds must be at least 1")
    contenders = all_contenders(arguments.variant)
    everywhere = {text.partition("=")[0] for text in arguments.variant}
    if arguments.contender:
        everywhere |= set(arguments.contender)
        contenders = [contender for contender in contenders if contender.name in everywhere]
        unknown = everywhere - {contender.name for contender in contenders}
        if unknown:
            known = ", ".join(contender.name for contender in all_contenders())
            raise BenchError(f"no contender {unknown.pop()!r}: there are {known}")
    cases = parse_cases(arguments.only)
    return Plan(contenders, everywhere, cases, arguments.rounds, arguments.quick)


def parse_cases(text: str) -> dict[str, list[str]]:
    """Return the cases named by ``SCENARIO`` or ``SCENARIO:CASE``, separated by commas.

    All cases of all scenarios if the text is empty.

    Raises:
        BenchError: there is no such scenario, or it has no such case.
    """
    known = {scenario.name: list(scenario.cases) for scenario in SCENARIOS}
    found: dict[str, list[str]] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, _, case = (piece.strip() for piece in word.partition(":"))
        if name not in known:
            raise BenchError(f"no scenario {name!r}: there are {', '.join(known)}")
        if case and case not in known[name]:
            raise BenchError(f"no case {case!r} in {name}: there are {', '.join(known[name])}")
        found.setdefault(name, []).extend([case] if case else known[name])
    return found or known


def _show(results: Results, scenario: Scenario) -> None:
    table = scenario_table(results, scenario)
    if table:
        print(f"\n{scenario.title}\n", *table, "", sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
