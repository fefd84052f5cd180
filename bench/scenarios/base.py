"""What a scenario is, and the figures that several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from ..contenders.base import Contender
from ..model import Better, Metric
from ..processes import Supervisor
from ..rig import Rig, Usage
from ..site import Site

__all__ = [
    "BULK_METRICS",
    "Bench",
    "Growth",
    "Measured",
    "Scenario",
    "bulk_values",
    "cost_values",
    "milliseconds",
]

Measured = tuple[str, dict[str, float]]
"""A case and its figures."""

T = TypeVar("T")

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bench:
    """What a scenario gets for one contender in one round."""

    supervisor: Supervisor
    quick: bool
    say: Callable[[str], None]
    """Show progress."""
    failed: Callable[[str], None]
    """Note that a case has failed, and why; others may follow."""
    left_out: Callable[[str, str], None]
    """Note that a case was not tried, and why."""
    wants: Callable[[str], bool]
    """Tell whether a case is to be measured."""

    def pick(self, full: T, quick: T) -> T:
        """Return a parameter of the full or the quick benchmark."""
        return quick if self.quick else full

    def rig(self, contender: Contender, site: Site | None = None) -> Rig:
        """Return the contender at work between load generators.

        Raises:
            BenchError: something did not start.
        """
        return Rig(self.supervisor, contender, site)


@dataclass(frozen=True, slots=True)
class Growth:
    """A cost whose growth over the cases is to be told; their names begin with a number."""

    metric: str
    label: str
    unit: str
    factor: float = 1.0
    """From the metric's unit to the slope's."""


class Scenario(ABC):
    """One scenario: a name, figures, and the way to get them."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    growth: tuple[Growth, ...] = ()
    most_rounds: int | None = None
    """Rounds after which nothing new is to be learned; ``None``: as many as asked for."""

    def excludes(self, contender: Contender) -> str | None:
        """Return why a contender cannot take part, ``None`` if it can."""
        return None

    def missing(self) -> str | None:
        """Return what is missing on this machine, ``None`` if nothing is."""
        return None

    @abstractmethod
    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        """Measure one contender once, the cases that the bench wants; yields as it goes.

        Raises:
            BenchError: something failed; cases already given stay valid.
        """


def _detail(name: str, label: str, unit: str, digits: int) -> Metric:
    return Metric(name, label, unit, Better.LOWER, digits, detail=True)


BULK_METRICS: Final = (
    Metric("rate", "throughput", "MB/s", Better.HIGHER, 0),
    Metric("cpu_ends", "CPU of source + destination", "s/GB", Better.LOWER, 2),
    Metric("cpu_relay", "CPU of the relay", "s/GB", Better.LOWER, 2),
    _detail("cpu_source", "CPU of the source", "s/GB", 2),
    _detail("cpu_destination", "CPU of the destination", "s/GB", 2),
    _detail("cpu_generators", "CPU of the load generators", "s/GB", 2),
    _detail("generator", "busiest load generator", "% of a core", 0),
    _detail("peak_source", "peak memory of the source", "MiB", 1),
    _detail("peak_relay", "peak memory of the relay", "MiB", 1),
    _detail("peak_destination", "peak memory of the destination", "MiB", 1),
    _detail("foreign", "machine used by others", "%", 0),
)


def bulk_values(rig: Rig, usage: Usage, moved: float, seconds: float) -> dict[str, float]:
    """Return the figures of :data:`BULK_METRICS` for ``moved`` bytes in ``seconds``."""
    gigabytes = moved / 1e9
    values = {
        "rate": moved / seconds / 1e6,
        "cpu_generators": sum(usage.generators.values()) / gigabytes,
        "generator": usage.busiest_generator * 100,
        "foreign": usage.foreign * 100,
    }
    if rig.roles:
        values["cpu_ends"] = usage.ends / gigabytes
    for role in rig.roles:
        values[f"cpu_{role.value}"] = usage.cpu[role] / gigabytes
        values[f"peak_{role.value}"] = rig.peak_rss(role) / _MIB
    return values


def cost_values(usage: Usage, count: float) -> dict[str, float]:
    """Return CPU microseconds of each role, and of both ends, for each of ``count`` things."""
    if not usage.cpu:
        return {}
    values = {f"us_{role.value}": cpu / count * 1e6 for role, cpu in usage.cpu.items()}
    values["us_ends"] = usage.ends / count * 1e6
    return values


def milliseconds(quantiles: dict[str, float], *names: str) -> dict[str, float]:
    """Return some quantiles of a client's answer, in milliseconds."""
    return {name: quantiles[name] * 1e3 for name in names if name in quantiles}
