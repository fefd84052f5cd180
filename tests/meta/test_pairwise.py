"""All pairs of values meet in the half of a grid that is run."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from support.plugins.pairwise import is_needed


@pytest.mark.parametrize("sizes", [(2, 2, 2), (5, 2, 2), (4, 3, 2), (2, 2, 2, 2)])
def test_all_pairs_are_run(sizes: tuple[int, ...]) -> None:
    grid = list(product(*map(range, sizes)))
    run = [positions for positions in grid if is_needed(positions)]
    assert len(run) <= (len(grid) + 1) // 2
    for one, other in combinations(range(len(sizes)), 2):
        assert {(p[one], p[other]) for p in run} == {(p[one], p[other]) for p in grid}


@pytest.mark.pairwise
@pytest.mark.parametrize("one", [0, 1])
@pytest.mark.parametrize("two", [0, 1])
@pytest.mark.parametrize("three", [0, 1])
def test_the_other_half_is_not_run(one: int, two: int, three: int) -> None:
    assert (one + two + three) % 2 == 0
