"""How pytest-xdist spreads tests over processes, and which of them are measured."""

from __future__ import annotations

import os
from typing import Any, Final

import pytest
from xdist.scheduler import LoadFileScheduling

__all__ = ["cost_of", "is_measured", "scheduler", "scope_of", "worker_count"]

_TOGETHER: Final = "tests/conformance/"
_MEASURED: Final = ("tests/unit/", "tests/session/", "tests/fuzzing/")

_SECONDS: Final = {
    _TOGETHER: 0.5,
    "tests/soaking/": 3.0,
    "tests/docs/test_walkthroughs.py": 2.5,
    "tests/e2e/test_platforms.py": 2.0,
    "tests/e2e/": 0.5,
    "tests/releasing/": 0.5,
    "tests/benchmark/": 0.2,
    "tests/unit/cli/": 0.1,
}
"""Room or file -> seconds that one of its tests takes, roughly, mostly for processes to start.

The first that fits counts.
"""
_USUAL: Final = 0.05


_WAITING: Final = 4
"""Processes besides one for each core: tests wait about as much as they work."""


def worker_count() -> int:
    """Return how many processes ``-n auto`` means."""
    # Not every system can say which cores this process may use.
    affinity = getattr(os, "sched_getaffinity", None)
    return (len(affinity(0)) if affinity else os.cpu_count() or 1) + _WAITING


def scope_of(nodeid: str) -> str:
    """Return what a test stays together with: its file, or its directory for the scenarios."""
    return _TOGETHER if nodeid.startswith(_TOGETHER) else nodeid.partition("::")[0]


def is_measured(nodeid: str) -> bool:
    """Return whether a test counts for coverage: those do that mirror the source.

    The others run whole programs, which would be slower for it and show nothing more.
    """
    return nodeid.startswith(_MEASURED)


def cost_of(scope: str, tests: int) -> float:
    """Return about how many seconds a scope with so many tests takes."""
    found = (each for room, each in _SECONDS.items() if scope.startswith(room))
    return tests * next(found, _USUAL)


class _LongestFirst(LoadFileScheduling):
    """So that no process is left alone with a long file in the end."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        longest = max(self.workqueue, key=lambda scope: cost_of(scope, len(self.workqueue[scope])))
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)


def scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Return a scheduler for ``--dist loadfile``, and none for other ways."""
    return _LongestFirst(config, log) if config.getoption("dist") == "loadfile" else None
