"""``@pytest.mark.pairwise``: half of a grid of parameters, in which all pairs of values meet.

Of three parameters or more, the event loop among them where a test asks for ``loop_kind``,
those combinations are run whose positions add up to an even number. Any two values of two
parameters are in one of them, as long as a third parameter has values at even and odd
positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["is_needed"]


def is_needed(positions: Iterable[int]) -> bool:
    """Return whether a combination of values is among those that are run."""
    return sum(positions) % 2 == 0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "pairwise: run half of a grid, in which all pairs meet")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    values: dict[tuple[str, str], list[Any]] = defaultdict(list)
    """Test and parameter -> its values in order; pytest does not keep their positions."""
    left_out = set()
    for item in items:
        if item.get_closest_marker("pairwise") is None:
            continue
        assert isinstance(item, pytest.Function)
        assert len(item.callspec.params) > 2, f"{item.nodeid}: pairs of two are the whole grid"
        positions = []
        for name, value in item.callspec.params.items():
            known = values[item.nodeid.partition("[")[0], name]
            if value not in known:
                known.append(value)
            positions.append(known.index(value))
        if not is_needed(positions):
            left_out.add(item)
    items[:] = [item for item in items if item not in left_out]
