"""Clients of a service: of its control API as users make them, of its data plane raw."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import boto3
from botocore.config import Config
from websockets.asyncio.client import ClientConnection, connect

from tailrace.service.config import Endpoints
from tailrace.wire import (
    PEER_MESSAGES,
    SUBPROTOCOL_V3,
    Message,
    MessageSplitter,
    MessageType,
    decode,
    encode_delimited,
)

__all__ = ["MessageClient", "api", "dial", "trust"]


def api(endpoints: Endpoints, **changes: Any) -> Any:
    """A boto3 client of the service, as a user would make it."""
    values: dict[str, Any] = {
        "endpoint_url": endpoints.api_endpoint,
        "region_name": endpoints.region,
        "aws_access_key_id": endpoints.access_key_id,
        "aws_secret_access_key": endpoints.secret_access_key,
        "verify": endpoints.ca_file,
        "config": Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=10),
    }
    return boto3.session.Session().client("iotsecuretunneling", **(values | changes))


def trust(endpoints: Endpoints) -> ssl.SSLContext:
    """A TLS context that trusts the service only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(endpoints.ca_file)
    return context


class MessageClient:
    """A raw client of the data plane that speaks in messages."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._splitter = MessageSplitter()
        self._messages: list[Message] = []

    async def send(self, *messages: Message) -> None:
        """Send messages in one WebSocket message."""
        await self.socket.send(b"".join(encode_delimited(message) for message in messages))

    async def recv(self) -> Message:
        """Receive the next message that is not about the presence of the other side."""
        while not self._messages:
            frame = await self.socket.recv()
            assert isinstance(frame, bytes)
            for body in self._splitter.feed(memoryview(frame)):
                message = decode(body)
                if message.type not in PEER_MESSAGES:
                    self._messages.append(message._replace(payload=bytes(message.payload)))
        return self._messages.pop(0)

    async def close_code(self) -> tuple[int, str]:
        """Read until the connection is closed; return code and reason, 1006 without one."""
        await self.socket.wait_closed()
        return self.socket.close_code or 1006, self.socket.close_reason or ""


@asynccontextmanager
async def dial(
    endpoints: Endpoints,
    side: str,
    token: str,
    *,
    client_token: str | None = None,
    subprotocols: Sequence[str] = (SUBPROTOCOL_V3,),
    expect_ids: Sequence[str] | None = (),
    **options: Any,
) -> AsyncIterator[MessageClient]:
    """Connect as a local proxy; take SERVICE_IDS unless ``expect_ids`` is ``None``."""
    headers = {"access-token": token}
    if client_token:
        headers["client-token"] = client_token
    values: dict[str, Any] = {
        "ssl": trust(endpoints),
        "subprotocols": subprotocols,
        "additional_headers": headers,
        "compression": None,
        "proxy": None,
        "ping_interval": None,
        "max_queue": None,
        "close_timeout": 5,
    }
    uri = f"wss://{endpoints.data_endpoint}/tunnel?local-proxy-mode={side}"
    async with connect(uri, **(values | options)) as socket:
        peer = MessageClient(socket)
        if expect_ids is not None:
            first = await peer.recv()
            assert first == Message(
                MessageType.SERVICE_IDS, available_service_ids=tuple(expect_ids)
            )
        yield peer
