"""Options, fixtures and the table of the conformance suite."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from conformance.laboratory import Laboratory, Outcome, Task, Trial
from conformance.results import Results, Verdict, summary, table, write
from conformance.targets import LINKS, Target
from conformance.titles import KINDS, OVER_EACH_LINK, TITLES
from support.plugins.leaks import Snapshot

_TASKS = pytest.StashKey[dict[str, Task]]()
_FOREIGN = pytest.StashKey[Target]()
_ALL: Final = "all"
_NOTE: Final = "conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "conformance suite (tests/conformance)")
    group.addoption(
        "--target",
        metavar="PATH",
        help="a local proxy to run the scenarios against; what it gets wrong is shown in the "
        "table and fails no test. Ours take part only if --link is given, too",
    )
    group.addoption(
        "--link",
        choices=(*LINKS, _ALL),
        help=f"link back end of ours (default: {LINKS[0]}, and {LINKS[1]} too in the scenarios "
        "that depend on it)",
    )
    group.addoption("--record", metavar="FILE", help="keep the results in FILE, for report.py")
    group.addoption(
        "--full", action="store_true", help="sizes and counts as large as the documents have them"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scenario(number, ...): what a conformance test shows")
    config.pluginmanager.register(Table(config), "conformance-table")


# -- who is tested ---------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("scenario")
    if marker is not None:
        targets = _targets(metafunc.config, marker.kwargs["trial"])
        metafunc.parametrize("target", targets, ids=lambda target: target.key)


def _targets(config: pytest.Config, trial: Trial) -> list[Target]:
    link = config.getoption("link", None)
    path = config.getoption("target", None)
    if link == _ALL:
        links = LINKS
    elif link:
        links = (link,)
    elif path:
        links = ()
    else:
        links = LINKS if OVER_EACH_LINK.intersection(trial.numbers) else LINKS[:1]
    targets = [Target.ours(each) for each in links]
    if path and not (trial.ours_alone and targets):
        if _FOREIGN not in config.stash:
            config.stash[_FOREIGN] = Target.foreign(path)
        targets.append(config.stash[_FOREIGN])
    return targets


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_TASKS] = {
        item.nodeid: Task(marker.kwargs["trial"], item.callspec.params["target"])
        for item in session.items
        if isinstance(item, pytest.Function) and (marker := item.get_closest_marker("scenario"))
    }


# -- outcomes --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> None:
    """Scenarios overlap: the laboratory looks around when the last one has ended."""


@pytest.fixture(scope="session")
def _before() -> Snapshot:
    return Snapshot.take()


@pytest.fixture(scope="session")
def _laboratory(
    pytestconfig: pytest.Config, _before: Snapshot, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Laboratory]:
    tasks = pytestconfig.stash[_TASKS]
    full = pytestconfig.getoption("full", False)
    with Laboratory(tasks, tmp_path_factory.mktemp("laboratory"), full) as laboratory:
        yield laboratory


@pytest.fixture
def outcome(
    request: pytest.FixtureRequest, target: Target, _laboratory: Laboratory, _before: Snapshot
) -> Outcome:
    """How the scenario of this test ended."""
    found = _laboratory.outcome(request.node.nodeid)
    verdict = Verdict.PASS if found.error is None else Verdict.FAIL
    if isinstance(found.error, pytest.skip.Exception):
        verdict = Verdict.NOT_RUN
    numbers = request.node.get_closest_marker("scenario").args
    request.node.user_properties.append(
        (_NOTE, [target.name, list(numbers), str(verdict), found.reason])
    )
    if _laboratory.is_done:
        gc.collect()
        if leaks := Snapshot.take().leaked_since(_before):
            pytest.fail("left behind by some scenario:\n  " + "\n  ".join(leaks), pytrace=False)
    return found


class Table:
    """Collects outcomes, from other processes too, and shows them at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._record = config.getoption("record", None)
        self._runs: dict[str, Results] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        for name, value in report.user_properties:
            if name == _NOTE:
                target, numbers, verdict, reason = value
                run = self._runs.setdefault(target, Results(target))
                run.note(numbers, Verdict(verdict), reason)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        runs = list(self._runs.values())
        if not runs:
            return
        if self._record:
            write(runs, Path(self._record))
        terminalreporter.section("conformance")
        shown = [number for number in TITLES if any(number in run.verdicts for run in runs)]
        for line in table(runs, shown):
            terminalreporter.line(line)
        for run in runs:
            terminalreporter.line(summary(run, KINDS))
