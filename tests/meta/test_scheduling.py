"""Tests of one file, and all scenarios of the conformance suite, run in one process."""

from __future__ import annotations

import pytest

from support.plugins.scheduling import cost_of, is_measured, scope_of


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("tests/unit/test_errors.py::test_a[x::y]", "tests/unit/test_errors.py"),
        ("tests/conformance/test_link.py::test_s22[a]", "tests/conformance/"),
        ("tests/conformance/test_source.py::test_s13[a]", "tests/conformance/"),
    ],
)
def test_scopes(nodeid: str, scope: str) -> None:
    assert scope_of(nodeid) == scope


def test_processes_take_longer_than_units() -> None:
    assert cost_of("tests/soaking/test_run.py", 4) > cost_of("tests/unit/wire/test_codec.py", 200)
    assert cost_of("tests/unit/wire/test_codec.py", 200) > cost_of("tests/e2e/test_demo.py", 6)
    assert cost_of("tests/e2e/test_platforms.py", 15) > cost_of("tests/e2e/test_demo.py", 30)


def test_what_runs_whole_programs_is_not_measured() -> None:
    assert is_measured("tests/unit/test_errors.py::test_a")
    assert not is_measured("tests/e2e/test_demo.py::test_a")
