"""The data plane alone: a listener without TLS, tunnels, and messages to send through it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from support.service.clients import MessageClient, api
from tailrace.common.secret import Secret
from tailrace.mqtt.topics import AWS_TOPICS
from tailrace.service.config import DataSettings
from tailrace.service.control import ControlPlane
from tailrace.service.limits import Limits
from tailrace.service.notify.announcer import Announcer
from tailrace.service.notify.mailbox import Mailbox
from tailrace.service.relay.data_listener import DataListener
from tailrace.service.relay.switchboard import Switchboard
from tailrace.service.telemetry.audit import AuditLog
from tailrace.service.telemetry.counters import Counters
from tailrace.service.tunneling_service import TunnelingService
from tailrace.service.tunnels.queries import TunnelQueries
from tailrace.service.tunnels.rules import RandomIds, Tunnels, TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.unstored import Unstored
from tailrace.wire import SUBPROTOCOL_V3, Message, MessageType, Side

DATA = MessageType.DATA
START = MessageType.STREAM_START
RESET = MessageType.STREAM_RESET

CLIENT = "2da438cf-9a30-4148-b236-c338182f243c"


async def open_tunnel(service: TunnelingService, *services: str) -> dict[str, Any]:
    request = {"destinationConfig": {"services": list(services)}} if services else {}
    client = api(service.endpoints)
    try:
        return await asyncio.to_thread(client.open_tunnel, **request)
    finally:
        client.close()


def start(stream: int = 1, service: str = "", connection: int = 1) -> Message:
    return Message(START, stream, service, connection)


def data(payload: bytes, stream: int = 1, service: str = "", connection: int = 1) -> Message:
    return Message(DATA, stream, service, connection, payload)


class Plain:
    """A listener without TLS, and tunnels to go with it."""

    def __init__(self, tmp_path: Path, limits: Limits, settings: DataSettings) -> None:
        self.store = SqliteStore.open(tmp_path / "db")
        switchboard = Switchboard()
        ids = RandomIds()
        unstored = Unstored()
        self.queries = TunnelQueries(self.store, unstored, lambda: 1.0, "r", "a")
        tunnels = Tunnels(self.store, unstored, ids, limits)
        announcer = Announcer((), "r", AWS_TOPICS)
        self.control = ControlPlane(
            tunnels, self.queries, switchboard, ids, lambda: 1.0, announcer, Mailbox(), lambda: None
        )
        counters, audit = Counters(time.monotonic), AuditLog(None, time.time)
        self.listener = DataListener(self.control, switchboard, settings, limits, counters, audit)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]

    def dial(self, side: Side, token: Secret, **options: Any) -> connect:
        return connect(
            f"ws://127.0.0.1:{self.port}/tunnel?local-proxy-mode={side}",
            subprotocols=[SUBPROTOCOL_V3],
            additional_headers={"access-token": token.reveal()} | options.pop("headers", {}),
            proxy=None,
            compression=None,
            ping_interval=None,
            max_queue=None,
            **options,
        )

    @asynccontextmanager
    async def pair(self, **options: Any) -> AsyncIterator[tuple[MessageClient, MessageClient]]:
        """Both sides of a new tunnel, with one stream between them."""
        opened = self.control.open_tunnel(TunnelSpec())
        async with (
            self.dial(Side.SOURCE, opened.source_token, **options) as left,
            self.dial(Side.DESTINATION, opened.destination_token, **options) as right,
        ):
            source, destination = MessageClient(left), MessageClient(right)
            for peer in (source, destination):
                assert (await peer.recv()).type == MessageType.SERVICE_IDS
            await source.send(start())
            assert await destination.recv() == start()
            yield source, destination


@asynccontextmanager
async def plain(
    tmp_path: Path, limits: Limits | None = None, settings: DataSettings | None = None
) -> AsyncIterator[Plain]:
    quick = DataSettings(close_timeout=1.0, sweep_interval=0.05)
    served = Plain(tmp_path, limits or Limits(), settings or quick)
    await served.listener.start(served.listening, None)
    try:
        yield served
    finally:
        await served.listener.stop()
        assert not served.listener._links
        served.store.close()
