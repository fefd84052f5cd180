"""``@pytest.mark.pairwise``: every pair of values of a grid of parameters, not every combination.

Faults that depend on parameters nearly always depend on one or two of them, such as a back end
and an event loop. With three and more, all pairs are found in far fewer combinations than there
are. The event loop counts where a test asks for ``loop_kind``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypeAlias

import pytest

__all__ = ["pairwise"]

_Pair: TypeAlias = frozenset[tuple[str, int]]


def pairwise(grid: Sequence[Mapping[str, int]]) -> list[int]:
    """Return which rows of a grid, in order, have all pairs of values that the grid has.

    A row maps parameters to numbers that stand for their values. Greedy: the row with the most
    new pairs comes first, and of several such rows the first.
    """
    pairs: list[set[_Pair]] = [
        {frozenset(pair) for pair in combinations(row.items(), 2)} for row in grid
    ]
    missing = set().union(*pairs)
    chosen = []
    while missing:
        best = max(range(len(pairs)), key=lambda number: len(pairs[number] & missing))
        missing -= pairs[best]
        chosen.append(best)
    return sorted(chosen)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "pairwise: run as much of a grid as all pairs need")


# Last, so that a room's own conftest.py can mark its tests before.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    grids: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("pairwise") is not None and len(_values(item)) > 2:
            grids[item.nodeid.partition("[")[0]].append(item)
    deselected: set[pytest.Item] = set()
    for grid in grids.values():
        needed = set(pairwise([_values(item) for item in grid]))
        deselected.update(item for number, item in enumerate(grid) if number not in needed)
    if deselected:
        items[:] = [item for item in items if item not in deselected]
        config.hook.pytest_deselected(items=list(deselected))


def _values(item: pytest.Item) -> Mapping[str, int]:
    """Return parameter -> identity of its value, as some values have no hash."""
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else {name: id(value) for name, value in callspec.params.items()}
