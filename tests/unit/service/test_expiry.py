"""The sweep: when it runs, what it closes, who is told, and what a failing store changes."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from support.plugins.clock import ClockLoop
from tailrace.service.errors import EndNotStored, StoreFailed, TunnelClosed
from tailrace.service.expiry import Expiry
from tailrace.service.relay.switchboard import Switchboard
from tailrace.service.telemetry.audit import AuditLog
from tailrace.service.tunnels.records import TunnelStatus
from tailrace.service.tunnels.rules import TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.store import NEWEST, Things
from tailrace.wire import Message, Side

ALL = Things()
EXPIRED = "The tunnel has expired"


class Audit(AuditLog):
    """Notes which tunnels have expired."""

    def __init__(self) -> None:
        super().__init__(None, lambda: 0.0)
        self.tunnels: list[str] = []

    def expired(self, tunnel: str) -> None:
        self.tunnels.append(tunnel)


class Box:
    """An inbox that writes down why its tunnel has ended."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def deliver(self, messages: memoryview, control: Message | None) -> None: ...

    def peer_left(self) -> None: ...

    def peer_blocked(self) -> None: ...

    def peer_unblocked(self) -> None: ...

    def replaced(self) -> None: ...

    def revoked(self, reason: str) -> None: ...

    def tunnel_closed(self, reason: str) -> None:
        self.reasons.append(reason)


class Sweeps:
    """A sweep on a loop whose time passes at once, over real links and a store that may fail."""

    def __init__(self, plane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = ClockLoop()
        self.times: list[float] = []
        """When the store was asked."""
        self.failing = False
        self.turns = 0
        self.audit = Audit()
        self.plane = plane
        self.switchboard = plane.control._switchboard = Switchboard()
        self.expiry = Expiry(
            plane.tunnels, self.switchboard, plane.announcer, self.audit, self.clock
        )
        plane.control._reschedule = self.expiry.sweep_soon
        plane.control.clock = plane.queries._clock = self.clock
        self._due_tunnels = plane.store.due_tunnels
        monkeypatch.setattr(plane.store, "due_tunnels", self._ask)
        self._change = plane.store._change
        monkeypatch.setattr(plane.store, "_change", self._write)

    def clock(self) -> float:
        return 1000.0 + self.loop.time()

    def _ask(self, now: float, limit: int) -> Any:
        self.times.append(self.loop.time())
        return self._due_tunnels(now, limit)

    def _write(self, sql: str, *values: object) -> Any:
        if self.failing:
            raise StoreFailed("disk gone")
        return self._change(sql, *values)

    def open(self, count: int, minutes: int = 1) -> list[Box]:
        """Open tunnels with a source each; return the sources."""
        boxes = []
        for _ in range(count):
            tunnel = self.plane.control.open_tunnel(TunnelSpec(lifetime_minutes=minutes)).tunnel
            boxes.append(Box())
            self.switchboard.join(tunnel.tunnel_id, Side.SOURCE, boxes[-1], tunnel.expires_at)
        return boxes

    def start(self) -> None:
        self.call(self.expiry.start)

    def call(self, function: Any) -> None:
        async def called() -> None:
            function()

        self.loop.run_until_complete(called())

    def run(self, seconds: float) -> list[float]:
        """Let time pass; return when the store was asked meanwhile."""
        self.times.clear()
        self.loop.run_until_complete(asyncio.sleep(seconds))
        return self.times


@pytest.fixture
def sweeps(plane: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweeps]:
    sweeps = Sweeps(plane, monkeypatch)
    yield sweeps
    sweeps.expiry.stop()
    sweeps.loop.close()


def ids(plane: Any) -> list[str]:
    """All tunnels, in the order they were opened."""
    return [tunnel.tunnel_id for tunnel in reversed(plane.store.list_tunnels(ALL, NEWEST, 100)[0])]


def statuses(sweeps: Sweeps) -> list[TunnelStatus]:
    """What ListTunnels says, and DescribeTunnel."""
    page = sweeps.loop.run_until_complete(sweeps.plane.queries.page(ALL, None, 100, ""))
    for tunnel in page.tunnels:
        assert sweeps.plane.queries.describe(tunnel.tunnel_id).status is tunnel.status
    return [tunnel.status for tunnel in page.tunnels]


def test_what_is_due_is_closed_and_reported(plane: Any, sweeps: Sweeps) -> None:
    first = plane.control.open_tunnel(TunnelSpec(lifetime_minutes=1)).tunnel.tunnel_id
    second = plane.control.open_tunnel(TunnelSpec(lifetime_minutes=3)).tunnel.tunnel_id
    sweeps.start()
    sweeps.run(59.9)
    assert sweeps.audit.tunnels == plane.announcer.withdrawn == []
    sweeps.run(0.2)
    assert sweeps.audit.tunnels == plane.announcer.withdrawn == [first]
    assert plane.store.tunnel(first).status is TunnelStatus.CLOSED
    assert plane.queries.describe(second).status is TunnelStatus.OPEN


def test_it_looks_every_second_until_it_stops(sweeps: Sweeps) -> None:
    sweeps.start()
    assert sweeps.times == [0.0]
    assert sweeps.run(3.5) == [1.0, 2.0, 3.0]
    sweeps.expiry.stop()
    assert sweeps.run(10.0) == []
    # A request that is still answered while the service stops wakes nothing.
    sweeps.call(sweeps.expiry.sweep_soon)
    assert sweeps.times == []
    assert sweeps.run(10.0) == []


def test_it_looks_when_a_tunnel_is_due_and_when_it_is_told_to(sweeps: Sweeps) -> None:
    sweeps.start()
    sweeps.run(0.4)
    sweeps.call(lambda: sweeps.open(1))
    times = sweeps.run(60.05)
    assert times[-2:] == pytest.approx([59.4, 60.4])
    sweeps.call(sweeps.expiry.sweep_soon)
    assert sweeps.run(1.5) == pytest.approx([61.45])


def test_links_end_to_the_second_with_their_tunnel(sweeps: Sweeps) -> None:
    (box,) = sweeps.open(1)
    sweeps.start()
    sweeps.run(59.9)
    assert box.reasons == []
    sweeps.run(0.1)
    assert box.reasons == [EXPIRED]


def test_a_tunnel_expires_before_its_time(plane: Any, sweeps: Sweeps) -> None:
    box, other = sweeps.open(2)
    sweeps.start()
    tunnel_id, _ = ids(plane)
    sweeps.call(lambda: sweeps.expiry.expire(tunnel_id))
    assert (box.reasons, other.reasons) == ([EXPIRED], [])
    sweeps.run(0.0)
    assert statuses(sweeps) == [TunnelStatus.OPEN, TunnelStatus.CLOSED]
    assert sweeps.audit.tunnels == plane.announcer.withdrawn == [tunnel_id]
    with pytest.raises(TunnelClosed):
        sweeps.expiry.expire(tunnel_id)


def test_a_store_that_fails_is_asked_again_soon(
    sweeps: Sweeps, caplog: pytest.LogCaptureFixture
) -> None:
    sweeps.open(1)
    sweeps.failing = True
    sweeps.start()
    sweeps.run(60.0)
    assert sweeps.run(3.5) == [61.0, 62.0, 63.0]
    # However often it has failed.
    assert caplog.messages == ["disk gone; trying again every second"]
    caplog.set_level("INFO")
    sweeps.failing = False
    sweeps.run(1.0)
    assert caplog.messages[-1] == "the tunnel store works again"
    assert len(sweeps.audit.tunnels) == 1


def test_a_store_that_fails_in_mid_expiry_spares_no_link(
    plane: Any, sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever tunnels the store has closed before, and each is reported once."""
    boxes = sweeps.open(40)
    close, closed = plane.store.close_tunnel, 0

    def close_some(tunnel_id: str, now: float) -> bool:
        nonlocal closed
        closed += 1
        if closed == 20:
            raise StoreFailed("disk gone")
        return bool(close(tunnel_id, now))

    monkeypatch.setattr(plane.store, "close_tunnel", close_some)
    sweeps.start()
    sweeps.run(60.1)
    assert [box.reasons for box in boxes] == [[EXPIRED]] * 40
    assert statuses(sweeps) == [TunnelStatus.CLOSED] * 40
    assert len(sweeps.audit.tunnels) == 23
    sweeps.run(1.0)
    assert len(sweeps.audit.tunnels) == len(set(sweeps.audit.tunnels)) == 40


def test_a_store_that_cannot_write_keeps_no_tunnel_alive(plane: Any, sweeps: Sweeps) -> None:
    (box,) = sweeps.open(1)
    sweeps.start()
    sweeps.failing = True
    sweeps.run(60.0)
    assert box.reasons == [EXPIRED]
    assert statuses(sweeps) == [TunnelStatus.CLOSED]
    assert plane.store.is_open(*ids(plane))


@pytest.mark.parametrize("delete", [False, True])
def test_closing_cuts_links_when_the_store_cannot_write(
    plane: Any, sweeps: Sweeps, delete: bool
) -> None:
    (box,) = sweeps.open(1)
    (tunnel_id,) = ids(plane)
    sweeps.start()
    sweeps.failing = True

    def close() -> None:
        with pytest.raises(EndNotStored, match="is closed, but"):
            plane.control.close_tunnel(tunnel_id, delete=delete)

    sweeps.call(close)
    assert box.reasons == ["The tunnel was closed"]
    assert plane.announcer.withdrawn == [tunnel_id]
    assert statuses(sweeps) == ([] if delete else [TunnelStatus.CLOSED])
    assert plane.store.is_open(tunnel_id)
    # It is made good as soon as it can be.
    sweeps.failing = False
    sweeps.run(1.0)
    assert not plane.store.is_open(tunnel_id)
    assert statuses(sweeps) == ([] if delete else [TunnelStatus.CLOSED])
    assert plane.unstored.endings == {}


def test_links_of_a_tunnel_that_another_process_has_closed_are_cut(
    plane: Any, sweeps: Sweeps, tmp_path: Any
) -> None:
    closed, removed, kept = sweeps.open(3)
    sweeps.start()
    other = SqliteStore.open(tmp_path / "db")
    other.close_tunnel(ids(plane)[0], 1000.0)
    other.delete_tunnel(ids(plane)[1])
    other.close()
    sweeps.run(1.5)
    assert closed.reasons == removed.reasons == ["The tunnel was closed"]
    assert kept.reasons == []
    assert sweeps.audit.tunnels == []


def test_one_turn_ends_a_few_tunnels_only(
    plane: Any, sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are due at once: links, the store's part, and what is removed later."""
    boxes = sweeps.open(100)
    progress: list[tuple[int, int, int]] = []
    sweep = sweeps.expiry._sweep

    def look() -> None:
        sweep()
        usage = plane.store.usage(None, 0.0)
        cut = sum(len(box.reasons) for box in boxes)
        progress.append((cut, usage.closed, usage.open + usage.closed))

    monkeypatch.setattr(sweeps.expiry, "_sweep", look)
    sweeps.start()
    sweeps.run(60.5)
    assert progress[0] == (0, 0, 100)
    assert progress[-1] == (100, 100, 100)
    sweeps.run(3 * 3600 + 2)
    assert progress[-1] == (100, 0, 0)
    for before, after in itertools.pairwise(progress):
        assert after[0] - before[0] <= 8
        assert after[1] - before[1] <= 8
        assert before[2] - after[2] <= 4
