"""A running service, a tunnel of it, and a control plane without links."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.service import config, running
from support.service.data_plane import open_tunnel
from tailrace.common.secret import Secret
from tailrace.mqtt.topics import AWS_TOPICS
from tailrace.service.config import DataSettings
from tailrace.service.control import ControlPlane
from tailrace.service.limits import DEFAULT
from tailrace.service.notify.announcer import Announcer
from tailrace.service.notify.mailbox import Mailbox
from tailrace.service.relay.switchboard import Switchboard
from tailrace.service.tunneling_service import TunnelingService
from tailrace.service.tunnels.queries import TunnelQueries
from tailrace.service.tunnels.records import TunnelRecord
from tailrace.service.tunnels.rules import RandomIds, Tunnels
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.unstored import Unstored
from tailrace.wire import Side


@pytest.fixture
def use_aiofastnet() -> bool:
    """Choose the transports; some tests go over both kinds."""
    return True


@pytest.fixture
async def service(tmp_path: Path, use_aiofastnet: bool) -> AsyncIterator[TunnelingService]:
    data = DataSettings(use_aiofastnet=use_aiofastnet, sweep_interval=0.2, close_timeout=2.0)
    async with running(config(tmp_path / "state", data=data)) as service:
        yield service


@pytest.fixture
async def tunnel(service: TunnelingService) -> dict[str, Any]:
    return await open_tunnel(service)


class ClosingSwitchboard(Switchboard):
    """Notes which links are to end."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: list[tuple[str, str]] = []
        self.disconnected: list[tuple[str, Side, str]] = []

    def disconnect(self, tunnel_id: str, side: Side, reason: str) -> None:
        self.disconnected.append((tunnel_id, side, reason))

    def close_tunnel(self, tunnel_id: str, reason: str) -> None:
        self.closed.append((tunnel_id, reason))


class Announcements(Announcer):
    """Notes which things would be notified."""

    def __init__(self) -> None:
        super().__init__((), "r", AWS_TOPICS)
        self.announced: list[tuple[TunnelRecord, Secret]] = []
        self.withdrawn: list[str] = []

    def announce(self, tunnel: TunnelRecord, destination_token: Secret) -> None:
        self.announced.append((tunnel, destination_token))

    def withdraw(self, tunnel_id: str) -> None:
        self.withdrawn.append(tunnel_id)


@dataclass
class Plane:
    """A control plane, and what it has changed and told whom."""

    store: SqliteStore
    now: float = 1000.0
    switchboard: ClosingSwitchboard = field(default_factory=ClosingSwitchboard)
    announcer: Announcements = field(default_factory=Announcements)
    mailbox: Mailbox = field(default_factory=Mailbox)
    rescheduled: int = 0

    def __post_init__(self) -> None:
        ids = RandomIds()
        self.unstored = Unstored()
        self.tunnels = Tunnels(self.store, self.unstored, ids, DEFAULT)
        self.queries = TunnelQueries(self.store, self.unstored, self.clock, "r", "a")
        self.control = ControlPlane(
            self.tunnels,
            self.queries,
            self.switchboard,
            ids,
            self.clock,
            self.announcer,
            self.mailbox,
            self._reschedule,
        )

    def clock(self) -> float:
        return self.now

    def _reschedule(self) -> None:
        self.rescheduled += 1


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    store = SqliteStore.open(tmp_path / "db")
    yield Plane(store)
    store.close()
