"""Results of a run that never was."""

from __future__ import annotations

from bench.model import Failure, Results, Sample, Skip, Slope
from bench.report.checks import REQUIREMENTS
from bench.stats import Line

__all__ = ["good_results", "results_of"]

CONTENDERS = ("picows", "websockets", "nginx", "reference")
MACHINE = {"CPU": "2 x some CPU", "kernel": "Linux 6.1"}


def results_of(*samples: Sample, failures: tuple[Failure, ...] = ()) -> Results:
    """Return results with some samples."""
    return Results(
        started="2026-01-02T03:04:05+00:00",
        rounds=3,
        quick=False,
        machine=dict(MACHINE),
        contenders={name: f"what {name} is" for name in CONTENDERS},
        samples=list(samples),
        failures=list(failures),
        skips=[Skip("ssh", "no ssh")],
        slopes=[Slope("messages", "picows", "CPU", "us each", Line(12.5, 1.0, 0.999))],
    )


def good_results() -> Results:
    """Return results in which everything holds, each figure of three rounds."""
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    for requirement in REQUIREMENTS:
        for figure in requirement.figures():
            key = (figure.scenario, figure.case, figure.contender)
            values.setdefault(key, {})[figure.metric] = _good(figure.metric, figure.contender)
    return results_of(
        *(
            Sample(scenario, case, contender, number, dict(figures))
            for number in range(3)
            for (scenario, case, contender), figures in values.items()
        )
    )


def _good(metric: str, contender: str) -> float:
    """Return a figure that suits: 600 is a lot for a rate, 20 is little for anything else."""
    if metric == "rate":
        return {"reference": 100.0, "nginx": 500.0}.get(contender, 600.0)
    if metric in ("share", "correct", "answered", "intact"):
        return 100.0
    return {"reference": 100.0, "nginx": 30.0}.get(contender, 20.0)
