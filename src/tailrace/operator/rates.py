"""Bytes per second, from what processes have told twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

__all__ = ["Rates", "counts_of", "rates_between"]

Key: TypeAlias = "tuple[object, ...]"
Rates: TypeAlias = "Mapping[Key, float]"
"""Process, tunnel or side, and direction -> bytes per second."""


def counts_of(document: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
    """Yield what a document counts: a key that stays the same, and a number of bytes."""
    # A later process may have the same id.
    process = (document["pid"], document["kind"], document["since"])
    for tunnel in document.get("tunnels", ()):
        for direction in ("bytes_in", "bytes_out"):
            yield (*process, tunnel["tunnel"], tunnel["side"], direction), tunnel[direction]
    for side, of in document.get("service", {}).get("sides", {}).items():
        yield (*process, "", side, "bytes_in"), of["bytes"]


def rates_between(
    before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]
) -> dict[Key, float]:
    """Return the rates of what is in both; what counts anew has none."""
    earlier = {key: (count, each["clock"]) for each in before for key, count in counts_of(each)}
    rates = {}
    for document in after:
        for key, count in counts_of(document):
            count_then, then = earlier.get(key, (count, document["clock"]))
            seconds = document["clock"] - then
            if seconds > 0 and count >= count_then:
                rates[key] = (count - count_then) / seconds
    return rates
