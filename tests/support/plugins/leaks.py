"""Leak checks around every test: tasks, file descriptors, child processes, warnings.

A pytest plugin, loaded by ``conftest.py``. A snapshot is taken before a test's own
fixtures are set up and compared after they are torn down, so that what fixtures of a
wider scope hold open is not counted. The loop gets some turns before the comparison, and
other threads get time, as transports close asynchronously; what is still there afterwards
was left behind.
Garbage is collected first, so that unclosed objects warn in the report of the test
they belong to.

Descriptors and processes are read from ``/proc`` and go unchecked where there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_asyncio import is_async_test

__all__ = ["Snapshot", "uncollected"]

_DESCRIPTORS = Path("/proc/self/fd")
_THREADS = Path("/proc/self/task")

_TURNS = 300
_TURN = 0.01
"""Loop turns, and seconds of each, that transports and tasks get for closing."""


def _descriptors() -> frozenset[int]:
    listed = os.listdir(_DESCRIPTORS) if _DESCRIPTORS.is_dir() else []
    return frozenset(number for number in map(int, listed) if _is_open(number))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False  # the descriptor of the listing itself
    return True


def _target(number: int) -> str:
    try:
        return os.readlink(_DESCRIPTORS / str(number))
    except OSError:
        return "has just been closed"


def _children() -> frozenset[int]:
    found: set[int] = set()
    for path in _THREADS.glob("*/children"):
        # A thread may end between the listing and the reading of its children.
        with contextlib.suppress(OSError):
            found.update(map(int, path.read_text().split()))
    return frozenset(found)


def _describe(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "has just ended"
    # A process that nobody has waited for, or that is about to begin, shows nothing.
    return raw.replace(b"\0", b" ").decode(errors="replace").strip() or "no command line"


def _tasks() -> frozenset[asyncio.Task[object]]:
    try:
        return frozenset(asyncio.all_tasks() - {asyncio.current_task()})
    except RuntimeError:
        return frozenset()  # no loop is running


@dataclass(frozen=True)
class Snapshot:
    """What the process holds at one moment."""

    descriptors: frozenset[int]
    """Only numbers, not what they stand for: uvloop replaces its own."""
    children: frozenset[int]
    tasks: frozenset[asyncio.Task[object]]

    @classmethod
    def take(cls) -> Snapshot:
        """Look now; tasks are those of the running loop, if any."""
        return cls(_descriptors(), _children(), _tasks())

    def leaked_since(self, before: Snapshot) -> list[str]:
        """Return one line for each thing that was not there before."""
        return [
            *(f"task {task!r}" for task in self.tasks - before.tasks),
            *(
                f"fd {number} -> {_target(number)}"
                for number in sorted(self.descriptors - before.descriptors)
            ),
            *(
                f"process {pid}: {_describe(pid)}"
                for pid in sorted(self.children - before.children)
            ),
        ]


@contextlib.contextmanager
def uncollected(*kinds: type) -> Iterator[Callable[[], list[object]]]:
    """Do without the garbage collector: what is freed in here was in no cycle.

    Yields what returns the objects of these kinds that came since and are not freed.
    """

    def living() -> list[object]:
        return [each for each in gc.get_objects() if issubclass(type(each), kinds)]

    gc.collect()
    before = living()
    known = {id(each) for each in before}
    gc.disable()
    try:
        yield lambda: [each for each in living() if id(each) not in known]
    finally:
        gc.enable()
        before.clear()


def _fail(leaks: list[str]) -> None:
    pytest.fail("left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.fixture(scope="module", autouse=True)
def _only_new_garbage_is_collected() -> None:
    """Keep the collections after each test short: what outlives other modules is no garbage.

    Without this they take longer with every test that has run, and in the end most of the time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _all_garbage_is_collected_in_the_end() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture
async def _nothing_left_in_loop() -> AsyncIterator[None]:
    before = Snapshot.take()
    yield
    gc.collect()
    for _ in range(_TURNS):
        if not (leaks := Snapshot.take().leaked_since(before)):
            return
        await asyncio.sleep(_TURN)
    _fail(leaks)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    if is_async_test(request.node):
        # The loop's own descriptors are there when this one looks, before and after.
        request.getfixturevalue("_nothing_left_in_loop")
        yield
    else:
        before = Snapshot.take()
        yield
        gc.collect()
        # A service in another thread closes what it has in its own time.
        for _ in range(_TURNS):
            if not (leaks := Snapshot.take().leaked_since(before)):
                return
            time.sleep(_TURN)
        _fail(leaks)
