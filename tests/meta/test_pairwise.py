"""Thinned out, a grid of parameters still has every pair of values."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.plugins.pairwise import pairwise


def grid_of(*sizes: int) -> list[dict[str, int]]:
    rows = product(*(range(size) for size in sizes))
    return [{str(number): value for number, value in enumerate(row)} for row in rows]


@pytest.mark.parametrize(
    ("sizes", "count"), [((2, 3, 13), 39), ((2, 3, 2, 7), 21), ((2, 2, 2), 4), ((2, 3), 6)]
)
def test_few_rows_are_enough(sizes: tuple[int, ...], count: int) -> None:
    assert len(pairwise(grid_of(*sizes))) <= count * 1.2


@given(
    st.lists(
        st.fixed_dictionaries(
            {"a": st.integers(0, 3), "b": st.integers(0, 3), "c": st.integers(0, 3)}
        )
    )
)
def test_no_pair_is_missing(grid: list[dict[str, int]]) -> None:
    def pairs(rows: list[dict[str, int]]) -> set[object]:
        return {frozenset(pair) for row in rows for pair in combinations(row.items(), 2)}

    chosen = pairwise(grid)
    assert chosen == sorted(set(chosen))
    assert pairs([grid[number] for number in chosen]) == pairs(grid)


def test_tests_are_deselected(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.pairwise
        @pytest.mark.parametrize("a", [0, 1])
        @pytest.mark.parametrize("b", [0, 1])
        @pytest.mark.parametrize("c", [0, 1])
        def test_three(a, b, c): ...
        @pytest.mark.parametrize("a", [0, 1])
        @pytest.mark.parametrize("b", [0, 1])
        def test_two(a, b): ...
        def test_none(): ...
        """
    )
    outcome = pytester.runpytest_inprocess("-p", "no:asyncio", "-p", "support.plugins.pairwise")
    outcome.assert_outcomes(passed=4 + 4 + 1, deselected=4)
