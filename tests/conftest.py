"""What every test gets: leak checks, a choice of event loops, settings of Hypothesis."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import hypothesis
import pytest

from support.plugins.loops import LOOP_FACTORIES
from support.plugins.scheduling import is_measured, scheduler, worker_count

COVERAGE_OF_PROCESSES = "COVERAGE_PROCESS_CONFIG"
"""Variable by which processes know that they are measured."""

pytest_plugins = ["support.plugins.leaks", "support.plugins.pairwise", "pytester"]

# A shell starts its background jobs with Ctrl-C ignored, and their children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a test never judges by the clock.
_HOUSE = hypothesis.settings(deadline=None, print_blob=True)
hypothesis.settings.register_profile("house", _HOUSE)
hypothesis.settings.register_profile("deep", _HOUSE, max_examples=5_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make every report fit to travel between processes: logs may hold what is not text."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session", autouse=True)
def _runtime_directory() -> Iterator[None]:
    """Keep the sockets of commands apart from those of this machine's, and their paths short."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    with tempfile.TemporaryDirectory(prefix="tailrace-run-") as directory:
        os.environ["XDG_RUNTIME_DIR"] = directory
        yield
    if before is None:
        del os.environ["XDG_RUNTIME_DIR"]
    else:
        os.environ["XDG_RUNTIME_DIR"] = before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the coverage of whole programs out."""
    for item in items:
        if not is_measured(item.nodeid):
            item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Nor measure what such a test starts."""
    if is_measured(item.nodeid):
        return (yield)
    config = os.environ.pop(COVERAGE_OF_PROCESSES, None)
    try:
        return (yield)
    finally:
        if config is not None:
            os.environ[COVERAGE_OF_PROCESSES] = config


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Use more processes than there are cores."""
    return worker_count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the scenarios of the conformance suite in one process: they share a laboratory."""
    return scheduler(config, log)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the async tests that ask for ``loop_kind`` on each loop, the others on asyncio's."""
    marker = item.get_closest_marker("asyncio")
    chosen_by_mark = marker is not None and "loop_factories" in marker.kwargs
    if chosen_by_mark or "loop_kind" in getattr(item, "fixturenames", ()):
        return LOOP_FACTORIES
    return {"asyncio": LOOP_FACTORIES["asyncio"]}


@pytest.fixture
async def loop_kind() -> str:
    """The loop this async test runs on: ``asyncio`` or ``uvloop``; asking for it means both."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
