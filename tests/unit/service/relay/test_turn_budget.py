"""The budget of one turn, on a real loop."""

import asyncio

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
    assert not budget.overdrawn


def test_what_takes_longer_costs_more() -> None:
    assert 1 < JUDGED_COST < ROUTED_COST < LOW_BUDGET < FULL_BUDGET
    assert FRAME_COST > 1
