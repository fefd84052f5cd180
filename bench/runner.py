"""Run scenarios: round by round, contender by contender, each with fresh processes."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from . import machine
from .contenders.base import Contender
from .errors import BenchError, Unavailable
from .model import Failure, Results, Sample, Skip, Slope
from .processes import Supervisor
from .progress import Progress
from .scenarios.base import Bench, Scenario
from .selection import Selection
from .stats import fit

__all__ = ["Plan", "run"]

_PATIENCE: Final = 2
"""Rounds in which a contender may fail before it is left out of the scenario's others."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    scenarios: Sequence[Scenario]
    contenders: Sequence[Contender]
    rounds: int
    quick: bool
    selection: Selection = field(default_factory=Selection)


def run(plan: Plan, scenario_done: Callable[[Results, Scenario], None]) -> Results:
    """Run everything; ``scenario_done`` is told after each scenario.

    An interrupt (Ctrl-C) ends the run early: what was measured so far is returned.
    """
    results = Results(
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        rounds=plan.rounds,
        quick=plan.quick,
        machine=machine.describe(),
    )
    contenders = _present(plan.contenders, results)
    scenarios = [
        (scenario, [c for c in contenders if _takes_part(plan, scenario, c, results)])
        for scenario in plan.scenarios
        if _possible(scenario, results)
    ]
    steps = sum(_rounds(plan, scenario) * len(those) for scenario, those in scenarios)
    progress = Progress(steps)
    for skip in results.skips:
        progress.note(f"left out: {skip.what}: {skip.reason}")
    machine.allow_many_files()
    try:
        for scenario, those in scenarios:
            progress.note(f"\n{scenario.title}")
            for number in range(_rounds(plan, scenario)):
                # Whatever changes in time hits every contender in turn.
                turn = number % max(len(those), 1)
                for contender in [*those[turn:], *those[:turn]]:
                    if _has_given_up(results, scenario, contender):
                        progress.skip()
                    else:
                        _measure(plan, scenario, contender, number, results, progress)
            results.slopes += _slopes(results, scenario, those)
            scenario_done(results, scenario)
    except KeyboardInterrupt:
        results.skips.append(Skip("what is missing", "the run was interrupted"))
        progress.note("interrupted")
    return results


def _present(contenders: Sequence[Contender], results: Results) -> list[Contender]:
    found = []
    for contender in contenders:
        missing = contender.missing()
        if missing is None:
            found.append(contender)
            results.contenders[contender.name] = contender.description
        else:
            results.skips.append(Skip(contender.name, missing))
    return found


def _possible(scenario: Scenario, results: Results) -> bool:
    missing = scenario.missing()
    if missing is not None:
        results.skips.append(Skip(f"scenario {scenario.name}", missing))
    return missing is None


def _takes_part(plan: Plan, scenario: Scenario, contender: Contender, results: Results) -> bool:
    if not plan.selection.has(scenario.name, contender=contender.name):
        return False
    reason = scenario.excludes(contender)
    if reason is not None:
        results.skips.append(Skip(f"{contender.name} in {scenario.name}", reason))
    return reason is None


def _has_given_up(results: Results, scenario: Scenario, contender: Contender) -> bool:
    """Tell whether a contender has failed so often that it would only take time."""
    rounds = {failure.round for failure in results.failed(scenario.name, contender.name)}
    return len(rounds) >= _PATIENCE


def _rounds(plan: Plan, scenario: Scenario) -> int:
    return min(plan.rounds, scenario.most_rounds or plan.rounds)


def _measure(
    plan: Plan,
    scenario: Scenario,
    contender: Contender,
    number: int,
    results: Results,
    progress: Progress,
) -> None:
    """Measure one contender once; failures are results too."""
    name = f"{scenario.name}, round {number + 1}, {contender.name}"
    progress.begin(name)
    last: tuple[str, dict[str, float]] | None = None

    def failed(reason: str) -> None:
        results.failures.append(Failure(scenario.name, contender.name, number, reason))
        progress.note(f"  {contender.name} failed: {reason}")

    def left_out(case: str, reason: str) -> None:
        skip = Skip(f"{contender.name} in {scenario.name}, {case}", reason)
        if skip not in results.skips:
            results.skips.append(skip)

    def wants(case: str) -> bool:
        return plan.selection.has(scenario.name, case=case, contender=contender.name)

    try:
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as directory,
            Supervisor(Path(directory)) as supervisor,
        ):
            bench = Bench(supervisor, plan.quick, progress.detail, failed, left_out, wants)
            for last in scenario.measure(bench, contender):
                case, values = last
                results.samples.append(Sample(scenario.name, case, contender.name, number, values))
    except (BenchError, Unavailable) as error:
        failed(str(error))
        progress.end("failed")
    else:
        progress.end(_gist(scenario, last))


def _gist(scenario: Scenario, last: tuple[str, dict[str, float]] | None) -> str:
    """Return the first figures of the last case, to see the run going."""
    if last is None:
        return "nothing to measure"
    case, values = last
    shown = [
        f"{metric.label} {values[metric.name]:.{metric.digits}f} {metric.unit}"
        for metric in scenario.metrics
        if metric.name in values and not metric.detail
    ]
    return f"{case}: {', '.join(shown[:3])}"


def _slopes(results: Results, scenario: Scenario, contenders: Sequence[Contender]) -> list[Slope]:
    """Draw lines through the cases of a scenario; their names begin with a number."""
    found = []
    for growth in scenario.growth:
        for contender in contenders:
            points = [
                (float(sample.case.split()[0]), sample.values[growth.metric] * growth.factor)
                for sample in results.samples
                if sample.scenario == scenario.name
                and sample.contender == contender.name
                and growth.metric in sample.values
            ]
            line = fit(points)
            if line is not None:
                found.append(Slope(scenario.name, contender.name, growth.label, growth.unit, line))
    return found
