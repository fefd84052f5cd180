"""Options, fixtures and the table of the conformance suite."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.laboratory import Laboratory, Outcome, Trial
from conformance.results import Results, Verdict, summary, table
from conformance.targets import LINKS, Target
from conformance.titles import KINDS, TITLES
from support_leaks import Snapshot

_TRIALS = pytest.StashKey[dict[str, Trial]]()
_RESULTS = pytest.StashKey[Results]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "conformance suite (tests/conformance)")
    group.addoption(
        "--target",
        metavar="PATH",
        help="a local proxy to run the scenarios against, instead of ours; what it gets wrong "
        "is shown in the table and fails no test",
    )
    group.addoption(
        "--link", choices=LINKS, default="auto", help="link back end of ours (default: auto)"
    )
    group.addoption("--record", metavar="FILE", help="keep the results in FILE, for report.py")
    group.addoption(
        "--full", action="store_true", help="sizes and counts as large as the documents have them"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scenario(number, ...): what a conformance test shows")


def pytest_collection_finish(session: pytest.Session) -> None:
    marked = {item.nodeid: item.get_closest_marker("scenario") for item in session.items}
    session.config.stash[_TRIALS] = {
        name: marker.kwargs["trial"] for name, marker in marked.items() if marker is not None
    }


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> None:
    """Scenarios overlap: the laboratory looks around when the last one has ended."""


@pytest.fixture(scope="session")
def _target(pytestconfig: pytest.Config) -> Target:
    path = pytestconfig.getoption("target", None)
    return Target.foreign(path) if path else Target.ours(pytestconfig.getoption("link", "auto"))


@pytest.fixture(scope="session")
def _results(pytestconfig: pytest.Config, _target: Target) -> Results:
    return pytestconfig.stash.setdefault(_RESULTS, Results(_target.name))


@pytest.fixture(scope="session")
def _laboratory(
    pytestconfig: pytest.Config, _target: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Laboratory]:
    trials = pytestconfig.stash[_TRIALS]
    full = pytestconfig.getoption("full", False)
    before = Snapshot.take()
    with Laboratory(_target, trials, tmp_path_factory.mktemp("laboratory"), full) as laboratory:
        yield laboratory
    gc.collect()
    leaks = Snapshot.take().leaked_since(before)
    if leaks:
        pytest.fail("left behind by some scenario:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.fixture
def outcome(request: pytest.FixtureRequest, _laboratory: Laboratory, _results: Results) -> Outcome:
    """How the scenario of this test ended."""
    found = _laboratory.outcome(request.node.nodeid)
    numbers = request.node.get_closest_marker("scenario").args
    if found.error is None:
        _results.note(numbers, Verdict.PASS)
    elif isinstance(found.error, pytest.skip.Exception):
        _results.note(numbers, Verdict.NOT_RUN, str(found.error))
    else:
        _results.note(numbers, Verdict.FAIL, found.reason)
    return found


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash.get(_RESULTS, None)
    if results is None:
        return
    record = config.getoption("record", None)
    if record:
        results.write(Path(record))
    terminalreporter.section(f"conformance of {results.target}")
    shown = [number for number in TITLES if number in results.verdicts]
    for line in table([results], shown):
        terminalreporter.line(line)
    terminalreporter.line(summary(results, KINDS))
