"""The sweep: when it runs, what it closes, and who is told."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from support.plugins.clock import ClockLoop
from tailrace.service.errors import StoreFailed
from tailrace.service.expiry import Expiry
from tailrace.service.telemetry.audit import AuditLog
from tailrace.service.tunnels.records import TunnelStatus
from tailrace.service.tunnels.rules import TunnelSpec


class Audit(AuditLog):
    """Notes which tunnels have expired."""

    def __init__(self) -> None:
        super().__init__(None, lambda: 0.0)
        self.tunnels: list[str] = []

    def expired(self, tunnel: str) -> None:
        self.tunnels.append(tunnel)


@pytest.fixture
def audit() -> Audit:
    return Audit()


@pytest.fixture
def expiry(plane: Any, audit: Audit) -> Expiry:
    return Expiry(plane.tunnels, plane.switchboard, plane.announcer, audit, plane.clock)


def test_what_is_due_is_closed_and_reported(plane: Any, audit: Audit, expiry: Expiry) -> None:
    assert expiry.expire() is None
    first = plane.control.open_tunnel(TunnelSpec(lifetime_minutes=1)).tunnel.tunnel_id
    second = plane.control.open_tunnel(TunnelSpec(lifetime_minutes=3)).tunnel.tunnel_id
    assert expiry.expire() == 1060.0
    assert audit.tunnels == plane.announcer.withdrawn == plane.switchboard.closed == []
    plane.now = 1060.0
    assert expiry.expire() == 1180.0
    assert plane.switchboard.closed == [(first, "The tunnel has expired")]
    assert audit.tunnels == plane.announcer.withdrawn == [first]
    assert plane.queries.describe(second).status is TunnelStatus.OPEN


class Sweeps:
    """A sweep on a loop whose time passes at once; notes when it asked the store."""

    def __init__(self, plane: Any, expiry: Expiry, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: list[float] = []
        self.failing = False
        self.loop = ClockLoop()
        self.expiry = expiry
        self._expire = plane.tunnels.expire
        monkeypatch.setattr(plane.tunnels, "expire", self._sweep)
        monkeypatch.setattr(plane, "clock", self.clock)
        expiry._clock = self.clock

    def clock(self) -> float:
        return 1000.0 + self.loop.time()

    def _sweep(self, now: float) -> tuple[str, ...]:
        self.times.append(self.loop.time())
        if self.failing:
            raise StoreFailed("disk gone")
        closed: tuple[str, ...] = self._expire(now)
        return closed

    def run(self, seconds: float) -> list[float]:
        """Let time pass; return when there were sweeps meanwhile."""
        self.times.clear()
        self.loop.run_until_complete(asyncio.sleep(seconds))
        return self.times


@pytest.fixture
def sweeps(plane: Any, expiry: Expiry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweeps]:
    sweeps = Sweeps(plane, expiry, monkeypatch)
    yield sweeps
    sweeps.loop.close()


async def called(function: Any) -> None:
    function()


def test_it_looks_every_second_until_it_stops(sweeps: Sweeps) -> None:
    sweeps.loop.run_until_complete(called(sweeps.expiry.start))
    assert sweeps.times == [0.0]
    assert sweeps.run(3.5) == [1.0, 2.0, 3.0]
    sweeps.expiry.stop()
    assert sweeps.run(10.0) == []
    # A request that is still answered while the service stops wakes nothing.
    sweeps.loop.run_until_complete(called(sweeps.expiry.sweep_soon))
    assert sweeps.times == []
    assert sweeps.run(10.0) == []


def test_it_looks_when_a_tunnel_is_due_and_when_it_is_told_to(plane: Any, sweeps: Sweeps) -> None:
    plane.now = 999.4
    plane.control.open_tunnel(TunnelSpec(lifetime_minutes=1))
    sweeps.loop.run_until_complete(called(sweeps.expiry.start))
    times = sweeps.run(60.0)
    assert times[57:] == pytest.approx([58.0, 59.0, 59.4])
    (closed,) = plane.switchboard.closed
    assert closed[1] == "The tunnel has expired"
    sweeps.run(0.1)
    sweeps.times.clear()
    sweeps.loop.run_until_complete(called(sweeps.expiry.sweep_soon))
    assert sweeps.times == pytest.approx([60.1])
    assert sweeps.run(1.5) == pytest.approx([61.1])
    sweeps.expiry.stop()


def test_a_store_that_fails_is_asked_again(
    sweeps: Sweeps, caplog: pytest.LogCaptureFixture
) -> None:
    sweeps.failing = True
    sweeps.loop.run_until_complete(called(sweeps.expiry.start))
    assert caplog.messages == ["disk gone"]
    assert sweeps.run(59.0) == [30.0]
    sweeps.failing = False
    assert sweeps.run(3.5) == [60.0, 61.0, 62.0]
    sweeps.expiry.stop()
