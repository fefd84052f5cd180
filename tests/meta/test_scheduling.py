"""Tests of one file, and all scenarios of the conformance suite, run in one process."""

from __future__ import annotations

import pytest

from support.plugins.scheduling import scope_of


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
