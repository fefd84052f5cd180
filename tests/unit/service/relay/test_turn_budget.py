"""The budget of one turn, on a real loop."""

import asyncio

import pytest

from tailrace.service.relay.turn_budget import (
    FRAME_COST,
    FULL_BUDGET,
    JUDGED_COST,
    LOW_BUDGET,
    ROUTED_COST,
    TurnBudget,
)


async def test_one_turn_however_often_it_is_asked_for() -> None:
    budget = TurnBudget()
    turns = []

    def turn() -> None:
        turns.append(budget.left)
        budget.renew()

    for left in (7, -3):
        budget.left = left
        budget.ask_for_turn(turn)
        budget.ask_for_turn(turn)
        assert budget.left == left
        await asyncio.sleep(0)
        assert budget.left == FULL_BUDGET
    assert turns == [7, -3]


def test_it_begins_full() -> None:
    budget = TurnBudget()
    assert budget.left == FULL_BUDGET
    assert budget.mark == LOW_BUDGET
    assert budget.heard


@pytest.mark.parametrize(("left", "overdrawn"), [(LOW_BUDGET - 1, False), (1, False), (0, True)])
def test_a_low_budget_is_noted_once_and_again_when_it_is_overdrawn(
    left: int, overdrawn: bool
) -> None:
    budget = TurnBudget()
    budget.left = left
    assert budget.note_low() is overdrawn
    assert budget.left >= budget.mark
    budget.left = -(10**9)
    assert (budget.left < budget.mark) is not overdrawn
    budget.backlog_gone()
    assert budget.mark == LOW_BUDGET


def test_what_takes_longer_costs_more() -> None:
    assert 1 < JUDGED_COST < ROUTED_COST < LOW_BUDGET < FULL_BUDGET
    assert FRAME_COST > 1
