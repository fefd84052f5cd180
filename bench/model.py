"""What is measured, and the results of a run as they are kept in JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["Failure", "Figure", "Metric", "Results", "Sample", "Summary"]

_FORMAT: Final = 2
_DIGITS: Final = 6
"""Digits of a figure that are worth keeping."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a scenario's cases."""

    name: str
    label: str
    unit: str
    digits: int


class Figure(NamedTuple):
    """Where a figure stands in the results."""

    scenario: str
    case: str
    metric: str


class Summary(NamedTuple):
    """Median and quartiles of the rounds."""

    q1: float
    median: float
    q3: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of one case, one contender, one round."""

    scenario: str
    case: str
    contender: str
    round: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Failure:
    """A measurement that gave no figures, and why."""

    scenario: str
    contender: str
    round: int
    reason: str


@dataclass(slots=True)
class Results:
    """Everything that one run found out."""

    started: str
    """Date and time, UTC, ISO 8601."""
    rounds: int
    quick: bool
    machine: dict[str, str]
    contenders: dict[str, str] = field(default_factory=dict)
    """Name -> one line on what it is, in the order of the columns."""
    samples: list[Sample] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    """What was left out altogether, and why."""

    def values(self, figure: Figure, contender: str) -> list[float]:
        """Return a figure of all rounds."""
        return [
            sample.values[figure.metric]
            for sample in self.samples
            if (sample.scenario, sample.case, sample.contender)
            == (figure.scenario, figure.case, contender)
            and figure.metric in sample.values
        ]

    def summary(self, figure: Figure, contender: str) -> Summary | None:
        """Return median and quartiles over the rounds, ``None`` if it was not measured."""
        values = self.values(figure, contender)
        if not values:
            return None
        # One value alone is as good as twice the same.
        cuts = statistics.quantiles(values * 2 if len(values) == 1 else values, method="inclusive")
        return Summary(cuts[0], cuts[1], cuts[2], len(values))

    def median(self, figure: Figure, contender: str) -> float | None:
        """Return the median over the rounds, ``None`` if it was not measured."""
        summary = self.summary(figure, contender)
        return summary.median if summary is not None else None

    def failed(self, scenario: str, contender: str) -> set[int]:
        """Return the rounds in which a contender has failed in a scenario."""
        return {
            failure.round
            for failure in self.failures
            if (failure.scenario, failure.contender) == (scenario, contender)
        }

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        document = {"format": _FORMAT, **asdict(self)}
        for sample in document["samples"]:
            sample["values"] = {
                name: float(f"{value:.{_DIGITS}g}") for name, value in sample["values"].items()
            }
        fields = [f"{json.dumps(name)}: {_lines(value)}" for name, value in document.items()]
        path.write_text("{\n" + ",\n".join(fields) + "\n}\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what :meth:`write` has written.

        Raises:
            ValueError: the file is something else.
        """
        refusal = f"{path} does not hold results of this benchmark"
        try:
            document: dict[str, Any] = json.loads(path.read_text())
        except ValueError:
            raise ValueError(refusal) from None
        if document.pop("format", None) != _FORMAT:
            raise ValueError(refusal)
        document["samples"] = [Sample(**entry) for entry in document["samples"]]
        document["failures"] = [Failure(**entry) for entry in document["failures"]]
        return cls(**document)


def _lines(value: Any) -> str:
    """Return JSON with one entry of a list a line, so that a person can search it."""
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in value) + "\n]"
