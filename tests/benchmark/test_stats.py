"""Medians, quartiles and lines."""

import pytest
from bench.stats import fit, quantile, summarise


def test_a_quantile_lies_between_its_neighbours() -> None:
    assert quantile([1.0, 2.0, 4.0], 0.0) == 1.0
    assert quantile([1.0, 2.0, 4.0], 0.25) == 1.5
    assert quantile([1.0, 2.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 4.0], 1.0) == 4.0
    assert quantile([7.0], 0.99) == 7.0


def test_no_values_have_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_a_summary_does_not_depend_on_the_order() -> None:
    found = summarise([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found.median, found.q1, found.q3, found.count) == (3.0, 2.0, 4.0, 5)
    assert found.spread == 2.0


def test_one_outlier_does_not_move_the_median() -> None:
    assert summarise([1.0, 1.0, 1.0, 1.0, 1000.0]).median == 1.0


def test_a_line_through_points_that_lie_on_one() -> None:
    line = fit([(0.0, 3.0), (10.0, 23.0), (20.0, 43.0)])
    assert line is not None
    assert (line.slope, line.intercept, line.fit) == pytest.approx((2.0, 3.0, 1.0))


def test_scatter_lowers_the_fit() -> None:
    line = fit([(0.0, 0.0), (1.0, 5.0), (2.0, 0.0), (3.0, 5.0)])
    assert line is not None
    assert 0.0 < line.fit < 0.5


def test_a_flat_line_fits_itself() -> None:
    line = fit([(0.0, 4.0), (5.0, 4.0)])
    assert line is not None
    assert (line.slope, line.fit) == (0.0, 1.0)


@pytest.mark.parametrize("points", [[], [(1.0, 1.0)], [(1.0, 1.0), (1.0, 2.0)]])
def test_no_line_without_two_places(points: list[tuple[float, float]]) -> None:
    assert fit(points) is None
