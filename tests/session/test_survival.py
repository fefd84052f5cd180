"""Connections over lost links: every byte once, whatever is cut or restarted, and whenever."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from support.session.survivors import SERVICES, SIZES, Cut, Half, World, play
from tailrace.session import MAX_KEPT, EndCause
from tailrace.wire import Side

SIDES = st.sampled_from(list(Side))
WHICH = st.integers(0, 1 << 16)


class Survival(RuleBasedStateMachine):
    """Both ends, both links and the service, step by step."""

    world: World

    @initialize(connected=st.booleans())
    def begin(self, connected: bool) -> None:
        self.world = World()
        if connected:
            self.world.settle()

    def _pick(self, which: int) -> Half | None:
        alive = self.world.alive
        return alive[which % len(alive)] if alive else None

    @rule(service_id=st.sampled_from(SERVICES))
    def open(self, service_id: str) -> None:
        self.world.open(service_id)

    @rule(which=WHICH, size=st.sampled_from(SIZES))
    def write(self, which: int, size: int) -> None:
        half = self._pick(which)
        if half is not None:
            half.write(size)

    @rule(which=WHICH, is_slow=st.booleans())
    def read_slowly(self, which: int, is_slow: bool) -> None:
        half = self._pick(which)
        if half is not None:
            half.is_slow = is_slow

    @rule(which=WHICH, size=st.sampled_from(SIZES))
    def take(self, which: int, size: int) -> None:
        half = self._pick(which)
        if half is not None:
            half.take(size)

    @rule(which=WHICH)
    def finish(self, which: int) -> None:
        half = self._pick(which)
        if half is not None:
            half.finish()

    @rule(which=WHICH)
    def reset(self, which: int) -> None:
        half = self._pick(which)
        if half is not None:
            half.reset()

    @rule(which=WHICH)
    def send_again(self, which: int) -> None:
        half = self._pick(which)
        if half is not None:
            half.send_again()

    @rule()
    def refuse_the_next(self) -> None:
        self.world.at(Side.DESTINATION).refuses = True

    @rule(side=SIDES, cut=st.sampled_from(Cut))
    def cut(self, side: Side, cut: Cut) -> None:
        self.world.cut(side, cut)

    @rule(side=SIDES)
    def notice(self, side: Side) -> None:
        self.world.notice(side)

    @rule()
    def restart_the_service(self) -> None:
        self.world.restart_service()

    @rule(side=SIDES)
    def restart(self, side: Side) -> None:
        self.world.restart(side)

    @rule(side=SIDES)
    def a_peer_that_cannot_resume_comes(self, side: Side) -> None:
        self.world.intrude(side)

    @rule(side=SIDES)
    def it_leaves(self, side: Side) -> None:
        self.world.expel(side)

    @rule(side=SIDES)
    def give_up(self, side: Side) -> None:
        self.world.give_up(side)

    @rule(side=SIDES)
    def connect(self, side: Side) -> None:
        self.world.connect(side)

    @rule(side=SIDES, blocked=st.booleans())
    def block(self, side: Side, blocked: bool) -> None:
        for link in self.world.links(side):
            link.block(blocked=blocked)

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
    def bounds_are_kept(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


TestSurvival = Survival.TestCase
TestSurvival.settings = settings(stateful_step_count=60)


@pytest.mark.parametrize("seed", range(4))
def test_cuts_alone_lose_nothing(seed: int) -> None:
    world = play(seed, cuts=60, connections=6)
    lasting = [half for half in world.halves if half.transfer.outlives]
    assert not any(half.transfer.excused for half in lasting)
    assert len(lasting) > 20
    assert all(half.cause is EndCause.COMPLETED for half in lasting)
    assert all(half.got == half.peer.written for half in lasting if half.peer is not None)
    assert all(end.agreements > 10 for end in world.ends.values())


@pytest.mark.parametrize("seed", range(4))
def test_cuts_resets_restarts_and_strangers(seed: int) -> None:
    world = play(seed, cuts=120, connections=6, restarts=True, resets=True)
    causes = {half.cause for half in world.halves}
    assert causes >= {
        EndCause.COMPLETED,
        EndCause.CONNECTION_RESET,
        EndCause.NOT_RESUMED,
        EndCause.PEER_RESTARTED,
        EndCause.PEER_CANNOT_RESUME,
    }


def test_many_that_keep_a_lot_do_not_wait_for_each_other() -> None:
    """Acknowledgements that are not due must not add up to all that may be kept."""
    world = World()
    world.settle()
    halves = [world.open("SSH") for _ in range(40)]
    senders = [half for half in halves if half is not None]
    most = 0
    for _ in range(6):
        for half in senders:
            half.length = 4 << 20
            half.write(1 << 20)
        most = max(most, world.ends[Side.SOURCE].memory.size)
        world.settle()
    assert most > MAX_KEPT // 2
    world.finish()
