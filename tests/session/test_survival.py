"""Connections over lost links: every byte once, whatever is cut or restarted, and whenever."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from support.session.survivors import LENGTH, SERVICES, Half, World
from tailrace.session.ledger import FIRST_LIMIT, SendingHalf
from tailrace.wire import Side

SIZES = (1, 100, 5_000, 64_512, 300_000)
SIDES = st.sampled_from(list(Side))


class Survival(RuleBasedStateMachine):
    """Both ends, both links and the service, step by step."""

    world: World

    @initialize(connected=st.booleans())
    def begin(self, connected: bool) -> None:
        self.world = World()
        if connected:
            self.world.settle()

    def _pick(self, data: st.DataObject) -> Half | None:
        alive = self.world.alive
        return alive[data.draw(st.integers(0, len(alive) - 1))] if alive else None

    @rule(service_id=st.sampled_from(SERVICES))
    def open(self, service_id: str) -> None:
        self.world.open(service_id)

    @rule(data=st.data(), size=st.sampled_from(SIZES))
    def write(self, data: st.DataObject, size: int) -> None:
        half = self._pick(data)
        if half is not None and half.ledger.half is SendingHalf.OPEN:
            half.write(size)

    @rule(data=st.data(), size=st.sampled_from(SIZES))
    def take(self, data: st.DataObject, size: int) -> None:
        half = self._pick(data)
        if half is not None:
            half.take(size)

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        half = self._pick(data)
        if half is not None:
            half.finish()

    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        half = self._pick(data)
        if half is not None:
            half.reset()

    @rule(side=SIDES)
    def cut(self, side: Side) -> None:
        self.world.cut(side)

    @rule()
    def restart_the_service(self) -> None:
        for side in Side:
            self.world.cut(side)

    @rule(side=SIDES)
    def restart(self, side: Side) -> None:
        self.world.restart(side)

    @rule(side=SIDES)
    def connect(self, side: Side) -> None:
        self.world.connect(side)

    @rule(side=SIDES, count=st.integers(1, 9))
    def forward(self, side: Side, count: int) -> None:
        for _ in range(count):
            self.world.forward(side)

    @rule(side=SIDES, count=st.integers(1, 9))
    def deliver(self, side: Side, count: int) -> None:
        for _ in range(count):
            self.world.deliver(side)

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @invariant()
    def nothing_outgrows_its_window(self) -> None:
        assert not hasattr(self, "world") or self.world.most_kept <= FIRST_LIMIT

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


TestSurvival = Survival.TestCase
TestSurvival.settings = settings(stateful_step_count=40)


def play(seed: int, *, cuts: int, connections: int, restarts: bool, resets: bool) -> World:
    """Transfer both ways over links that are cut at random moments."""
    dice, world = Random(seed), World()
    opened = done = 0
    while done < cuts or opened < connections or world.alive:
        if opened < connections and dice.random() < 0.05:
            world.open(dice.choice(SERVICES))
            opened += 1
        for half in world.alive:
            if dice.random() < 0.5:
                half.take(dice.choice(SIZES))
            if half.written == LENGTH:
                half.finish()
            elif half.is_alive:
                half.write(dice.choice(SIZES))
            if resets and half.is_alive and dice.random() < 0.002:
                half.reset()
        for _ in range(dice.randrange(12)):
            side = dice.choice(list(Side))
            dice.choice((world.forward, world.deliver))(side)
        if done < cuts and dice.random() < 0.12:
            done += 1
            for side in dice.choice(([Side.SOURCE], [Side.DESTINATION], list(Side))):
                world.cut(side)
            if restarts and dice.random() < 0.1:
                world.restart(dice.choice(list(Side)))
        for side in Side:
            if dice.random() < 0.3:
                world.connect(side)
    world.finish()
    return world


@pytest.mark.parametrize("seed", range(4))
def test_cuts_alone_lose_nothing(seed: int) -> None:
    world = play(seed, cuts=60, connections=5, restarts=False, resets=False)
    assert not world.excused
    assert len(world.halves) == 10
    assert all(half.got == LENGTH for half in world.halves)
    assert world.agreements > 20


@pytest.mark.parametrize("seed", range(4))
def test_cuts_resets_and_restarts(seed: int) -> None:
    world = play(seed, cuts=80, connections=12, restarts=True, resets=True)
    assert world.excused
