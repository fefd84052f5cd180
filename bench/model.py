"""What is measured, and the results of a run as they are kept in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

from .stats import Line, Summary, summarise

__all__ = ["Better", "Failure", "Metric", "Results", "Sample", "Skip", "Slope"]

_FORMAT: Final = 1
_DIGITS: Final = 6
"""Digits of a figure that are worth keeping."""


class Better(Enum):
    """Which way a figure should go."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a scenario."""

    name: str
    label: str
    unit: str
    better: Better
    digits: int = 1
    detail: bool = False
    """Whether it is left out of the tables on the terminal."""


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


@dataclass(frozen=True, slots=True)
class Skip:
    """What was left out altogether, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Slope:
    """How a cost grows."""

    scenario: str
    contender: str
    label: str
    unit: str
    """Of the slope, such as ``KiB per connection``."""
    line: Line


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
    skips: list[Skip] = field(default_factory=list)
    slopes: list[Slope] = field(default_factory=list)

    def values(self, scenario: str, case: str, contender: str, metric: str) -> list[float]:
        """Return the figures of all rounds."""
        return [
            sample.values[metric]
            for sample in self.samples
            if (sample.scenario, sample.case, sample.contender) == (scenario, case, contender)
            and metric in sample.values
        ]

    def summary(self, scenario: str, case: str, contender: str, metric: str) -> Summary | None:
        """Return median and quartiles over the rounds, ``None`` without figures."""
        values = self.values(scenario, case, contender, metric)
        return summarise(values) if values else None

    def median(self, scenario: str, case: str, contender: str, metric: str) -> float | None:
        """Return the median over the rounds, ``None`` without figures."""
        summary = self.summary(scenario, case, contender, metric)
        return summary.median if summary is not None else None

    def scenarios(self) -> list[str]:
        """Return the scenarios that have figures or failures, in the order they were run."""
        named = [*(s.scenario for s in self.samples), *(f.scenario for f in self.failures)]
        return list(dict.fromkeys(named))

    def cases(self, scenario: str) -> list[str]:
        """Return the cases of a scenario, in the order they were run."""
        return list(dict.fromkeys(s.case for s in self.samples if s.scenario == scenario))

    def failed(self, scenario: str, contender: str) -> list[Failure]:
        """Return the failures of a contender in a scenario."""
        return [
            failure
            for failure in self.failures
            if (failure.scenario, failure.contender) == (scenario, contender)
        ]

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
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
        document["skips"] = [Skip(**entry) for entry in document["skips"]]
        document["slopes"] = [
            Slope(**{**entry, "line": Line(**entry["line"])}) for entry in document["slopes"]
        ]
        return cls(**document)

    @classmethod
    def merged(cls, parts: Iterable[Results]) -> Results:
        """Put the scenarios of several runs together; of a scenario run twice, the later one.

        Raises:
            ValueError: there are no parts.
        """
        whole: Results | None = None
        for part in parts:
            if whole is None:
                whole = part
                continue
            again = set(part.scenarios())
            whole.samples = [s for s in whole.samples if s.scenario not in again] + part.samples
            whole.failures = [f for f in whole.failures if f.scenario not in again]
            whole.failures += part.failures
            whole.slopes = [s for s in whole.slopes if s.scenario not in again] + part.slopes
            whole.skips = list(dict.fromkeys([*whole.skips, *part.skips]))
            whole.contenders |= part.contenders
            whole.started = part.started
            whole.rounds = min(whole.rounds, part.rounds)
            whole.quick = whole.quick or part.quick
        if whole is None:
            raise ValueError("no results")
        return whole


def _lines(value: Any) -> str:
    """Return JSON with one entry of a list a line, so that a person can search it."""
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in value) + "\n]"
