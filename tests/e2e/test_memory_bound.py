"""However much a client sends, it makes the service grow by a fixed amount at most."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.network.frames import BINARY, frame
from support.service import ServiceProcess, service_process
from support.waiting import HANG
from tailrace.aws.signing import authorization, timestamp
from tailrace.common.secret import Secret
from tailrace.service.limits import DEFAULT
from tailrace.wire import (
    MAX_FRAME,
    MAX_PAYLOAD,
    SUBPROTOCOL_V3,
    Message,
    MessageType,
    encode_delimited,
)

TUNNELS = 8
SENT = 8 * 1024 * 1024
"""Bytes that each source tries to get rid of."""
BOUND = 2560 * 1024
"""What a link may cost: docs/reference/service.md, "Limits", twice for copies, and TLS."""

START, DATA = MessageType.STREAM_START, MessageType.DATA


def sent(payload: bytes) -> bytes:
    """Return one frame of a client."""
    return frame(BINARY, payload, masked=True)


def many(*messages: Message) -> bytes:
    """Return one frame that is full of these messages."""
    run = b"".join(map(encode_delimited, messages))
    return sent(run * (MAX_FRAME // len(run)))


FLOODS = {
    "bulk": many(Message(DATA, 1, "", 1, bytes(MAX_PAYLOAD))),
    "tiny frames": sent(encode_delimited(Message(DATA, 1, "", 1, b"x"))) * 1000,
    "streams": many(*(Message(START, n, "", n) for n in range(2, 2000))),
    # Not allowed: the link is being closed while it goes on.
    "garbage": sent(bytes(MAX_FRAME)),
}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service that has not grown with another flood."""
    with service_process(tmp_path) as service:
        yield service


@asynccontextmanager
async def link(service: ServiceProcess, side: str, token: str) -> AsyncIterator[asyncio.Transport]:
    """A link that reads nothing after its handshake."""
    host, _, port = service.endpoints.data_endpoint.rpartition(":")
    context = ssl.create_default_context(cafile=service.endpoints.ca_file)
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=context, server_hostname=host
    )
    writer.write(
        f"GET /tunnel?local-proxy-mode={side} HTTP/1.1\r\nHost: {host}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: 9/h0zvwMEXrg06G+RjnmcA==\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL_V3}\r\naccess-token: {token}\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HANG)
    assert head.startswith(b"HTTP/1.1 101 ")
    writer.transport.pause_reading()
    try:
        yield writer.transport
    finally:
        writer.transport.abort()


async def settled(service: ServiceProcess) -> int:
    """Return the service's memory when it no longer changes."""
    looks = [service.process.memory]
    async with asyncio.timeout(HANG):
        while len(looks) < 4 or len(set(looks[-4:])) > 1:
            await asyncio.sleep(0.1)
            looks.append(service.process.memory)
    return max(looks)


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_link_costs_so_much_and_no_more(small: ServiceProcess, flood: str):
    content, fresh = FLOODS[flood], small.process.memory
    async with contextlib.AsyncExitStack() as stack:
        sources = []
        for _ in range(TUNNELS):
            opened = await asyncio.to_thread(small.control.call, "OpenTunnel", {})
            links = [
                await stack.enter_async_context(link(small, side, opened[f"{side}AccessToken"]))
                for side in ("destination", "source")
            ]
            sources.append(links[1])
        for source in sources:
            source.write(sent(encode_delimited(Message(START, 1, "", 1))))
            source.write(content * (SENT // len(content)))
        assert await settled(small) - fresh < 2 * TUNNELS * BOUND
        # It is what was sent that would have been kept.
        assert TUNNELS * SENT > 1.5 * 2 * TUNNELS * BOUND
        assert small.process.running


BODIES = 60
STRANGER = 256 * 1024
"""What a connection of a stranger may cost: TLS, and what one read brings."""


def unsigned(service: ServiceProcess) -> dict[str, str]:
    return {"host": "localhost"}


def forged(service: ServiceProcess) -> dict[str, str]:
    """Return what whoever knows the id of a key can write."""
    endpoints, date = service.endpoints, timestamp(time.time())
    headers = [
        ("host", "localhost"),
        ("x-amz-date", date),
        ("x-amz-target", "IoTSecuredTunneling.OpenTunnel"),
    ]
    signed = authorization(
        endpoints.access_key_id,
        Secret("guessed"),
        endpoints.region,
        "IoTSecuredTunneling",
        date,
        headers,
        b"",
    )
    return dict(headers) | {"authorization": signed}


def drop(writer: asyncio.StreamWriter) -> None:
    """Abort a connection; later Pythons close a writer that nobody refers to any more."""
    writer.transport.abort()


@pytest.mark.parametrize("head_of", [unsigned, forged])
async def test_bodies_of_strangers_cost_so_much_and_no_more(
    small: ServiceProcess, head_of: Callable[[ServiceProcess], dict[str, str]]
):
    """Each of them lacks its last byte, for which the service would wait."""
    fresh, size = small.process.memory, DEFAULT.request_bytes
    fields = head_of(small) | {"content-length": str(size)}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    host, _, port = small.endpoints.api_endpoint.removeprefix("https://").rpartition(":")
    context = ssl.create_default_context(cafile=small.endpoints.ca_file)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(BODIES):
            _, writer = await asyncio.open_connection(
                host, int(port), ssl=context, server_hostname=host
            )
            stack.callback(drop, writer)
            writer.write(f"POST / HTTP/1.1\r\n{head}\r\n".encode())
            writer.write(bytes(size - 1))
        assert await settled(small) - fresh < BODIES * STRANGER + 2 * 4 * size
    # It is what was sent that would have been kept.
    assert BODIES * size > 2 * (BODIES * STRANGER + 2 * 4 * size)
