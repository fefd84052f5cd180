"""Run scenarios: round by round, contender by contender, each with fresh processes."""

from __future__ import annotations

import contextlib
import datetime
import resource
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from . import machine
from .contenders import Contender
from .model import Failure, Results, Sample
from .processes import BenchError
from .scenarios import SCENARIOS, Bench, Scenario

__all__ = ["Plan", "allow_many_files", "run"]

_PATIENCE: Final = 2
"""Rounds in which a contender may fail before it is left out of the scenario's others."""
_FILES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    contenders: Sequence[Contender]
    everywhere: Collection[str]
    """Contenders that are measured in every scenario, not only where their figures are read."""
    cases: Mapping[str, Sequence[str]]
    """Scenario -> cases to measure."""
    rounds: int
    quick: bool = False

    def contenders_in(self, scenario: Scenario) -> list[Contender]:
        """Return the contenders that are measured in a scenario."""
        names = {*scenario.contenders, *self.everywhere} if scenario.name in self.cases else ()
        return [contender for contender in self.contenders if contender.name in names]


def run(plan: Plan, scenario_done: Callable[[Results, Scenario], None]) -> Results:
    """Run everything; ``scenario_done`` is called after each scenario.

    An interrupt (Ctrl-C) ends the run early: what was measured so far is returned.
    """
    results = Results(
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        rounds=plan.rounds,
        quick=plan.quick,
        machine=machine.describe(),
        contenders={contender.name: contender.description for contender in plan.contenders},
    )
    missing = {each.name: reason for each in plan.contenders if (reason := each.missing())}
    for name, reason in missing.items():
        del results.contenders[name]
        results.skips.append(f"{name}: {reason}")
        _say(f"left out: {name}: {reason}")
    work = [
        (scenario, [each for each in plan.contenders_in(scenario) if each.name not in missing])
        for scenario in SCENARIOS
    ]
    allow_many_files()
    begun, step, steps = time.monotonic(), 0, plan.rounds * sum(len(those) for _, those in work)
    try:
        for scenario, those in work:
            for number in range(plan.rounds if those else 0):
                # Whatever changes in time hits every contender in turn.
                turn = number % len(those)
                for contender in [*those[turn:], *those[:turn]]:
                    step += 1
                    if len(results.failed(scenario.name, contender.name)) >= _PATIENCE:
                        continue
                    minutes, seconds = divmod(int(time.monotonic() - begun), 60)
                    name = f"{scenario.name}, round {number + 1}, {contender.name}"
                    _say(f"[{minutes:3}:{seconds:02} {step}/{steps}] {name}: ", end="")
                    _say(_measure(plan, scenario, contender, number, results))
            if those:
                scenario_done(results, scenario)
    except KeyboardInterrupt:
        results.skips.append("what is missing: the run was interrupted")
        _say("interrupted")
    return results


def _measure(
    plan: Plan, scenario: Scenario, contender: Contender, number: int, results: Results
) -> str:
    """Measure one contender once, failures are results too; return a line for the terminal."""
    gist = ""
    try:
        bench = Bench(contender, plan.quick)
        for case, values in scenario.measure(bench, plan.cases[scenario.name]):
            results.samples.append(Sample(scenario.name, case, contender.name, number, values))
            shown = [m for m in scenario.metrics if m.name in values][:3]
            figures = (f"{m.label} {values[m.name]:.{m.digits}f} {m.unit}" for m in shown)
            gist = f"{case}: {', '.join(figures)}"
    except (BenchError, OSError) as error:
        results.failures.append(Failure(scenario.name, contender.name, number, str(error)))
        return f"failed: {error}"
    return gist


def allow_many_files() -> None:
    """Raise the limit of open files of this process and its children as far as possible."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (hard, max(hard, _FILES)):  # the latter is for root alone
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
