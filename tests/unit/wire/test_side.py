"""The two sides of a tunnel."""

from __future__ import annotations

from tailrace.wire import Side


def test_spelled_as_in_the_upgrade_request() -> None:
    assert [str(side) for side in Side] == ["source", "destination"]


def test_each_talks_to_the_other() -> None:
    assert Side.SOURCE.other is Side.DESTINATION
    assert Side.DESTINATION.other is Side.SOURCE
