"""Bytes that are held of bodies."""

import pytest

from tailrace.service.api.body_budget import BodyBudget
from tailrace.service.api.errors import ApiError

FREE = 4096


def refusal(budget: BodyBudget, owner: str, size: int) -> str:
    with pytest.raises(ApiError) as caught, budget.share(owner) as share:
        share.grow(size + FREE)
    return caught.value.type


def test_the_share_of_one_owner() -> None:
    budget = BodyBudget(10)
    with budget.share("a") as first, budget.share("a") as second, budget.share("b") as other:
        first.grow(FREE)
        first.grow(FREE + 20)
        first.grow(FREE + 30)
        second.grow(FREE + 10)
        assert refusal(budget, "a", 1) == "ThrottlingException"
        other.grow(FREE + 40)
    with budget.share("a") as again:
        again.grow(FREE + 40)


def test_the_sum() -> None:
    budget = BodyBudget(10)
    shares = [budget.share(str(number)) for number in range(4)]
    for share in shares:
        share.grow(FREE + 40)
    assert refusal(budget, "new", 1) == "ServiceUnavailable"
    # Small ones do not count.
    with budget.share("new") as small:
        small.grow(FREE)
    shares[0].__exit__()
    with budget.share("new") as large:
        large.grow(FREE + 40)


def test_what_is_refused_is_not_kept() -> None:
    budget = BodyBudget(10)
    for _ in range(100):
        assert refusal(budget, "a", 41) == "ThrottlingException"
    assert not budget._held
    assert budget._sum == 0
