"""What is said about memory is like compared with like."""

from __future__ import annotations

from collections.abc import Callable

from soak.looks import Course

GLANCE = 0.5


def course(
    seconds: float, memory: Callable[[float], int], busy: Callable[[float], bool] = lambda _: True
) -> Course:
    """Look at a process for so long; both functions are given its age."""
    made = Course()
    for glance in range(int(seconds / GLANCE) + 1):
        age = glance * GLANCE
        made.note(1000.0 + age, memory(age), busy(age))
    return made


def test_what_grows_steadily_shows() -> None:
    assert course(600, lambda age: 1000 + int(age)).growth == (1067, 1592)


def test_growth_within_the_first_minute_is_none() -> None:
    assert course(600, lambda age: 500 if age < 60 else 1000).growth == (1000, 1000)


def test_a_moment_is_no_growth() -> None:
    assert course(600, lambda age: 5000 if age > 594 or 62 < age < 66 else 1000).growth == (
        1000,
        1000,
    )


def test_who_has_not_lived_for_long_says_nothing() -> None:
    assert course(119, lambda _: 1000).growth is None
    assert course(120, lambda _: 1000).growth is not None


def test_only_time_at_work_counts() -> None:
    # As much is needed once the tunnels are back after a minute and a half.
    def memory(age: float) -> int:
        return 1000 if age < 90 else 2000

    assert course(200, memory, lambda age: age >= 90).growth is None
    assert course(400, memory, lambda age: age >= 90).growth == (2000, 2000)
    # An outage at the end does not hide what there was before.
    assert course(400, lambda age: int(age), lambda age: age < 300).growth == (67, 292)
