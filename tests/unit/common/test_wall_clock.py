"""A clock that was never set is told from one that was."""

from datetime import UTC, datetime

import pytest

from tailrace.common.wall_clock import CLOCK_SET, is_clock_set


@pytest.mark.parametrize(
    ("year", "is_set"), [(1970, False), (2025, False), (2026, True), (2038, True)]
)
def test_years_before_this_program(year: int, is_set: bool) -> None:
    assert is_clock_set(datetime(year, 1, 1, tzinfo=UTC).timestamp()) is is_set


def test_the_first_year_begins_at_midnight() -> None:
    assert datetime.fromtimestamp(CLOCK_SET, UTC) == datetime(2026, 1, 1, tzinfo=UTC)
