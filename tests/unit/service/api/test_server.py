"""HTTP connections that are too many, or never ask for anything."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from support.service import api, config, running, trust
from support.waiting import HANG
from tailrace.service.limits import Limits
from tailrace.service.service import Service


@contextlib.asynccontextmanager
async def connected(service: Service) -> Any:
    host, _, port = service.endpoints.api_endpoint.removeprefix("https://").rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=trust(service.endpoints), server_hostname=host
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read_end(reader: asyncio.StreamReader) -> bytes:
    """Read to the end, be it orderly or not."""
    content = b""
    with contextlib.suppress(ConnectionError):
        while more := await asyncio.wait_for(reader.read(1000), HANG):
            content += more
    return content


@pytest.mark.parametrize("content", [b"", b"POST / HTTP/1.1\r\nHost: x\r\n"])
async def test_no_request_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    settings = config(tmp_path / "state", limits=Limits(handshake_seconds=0.3))
    async with running(settings) as service, connected(service) as (reader, writer):
        writer.write(content)
        assert await read_end(reader) == b""
    assert "API connection from 127.0.0.1 dropped: no request in time" in caplog.text


async def test_no_second_request_in_time(tmp_path: Path) -> None:
    """The first one is answered; then bytes come one by one, but never a whole head."""
    settings = config(tmp_path / "state", limits=Limits(handshake_seconds=0.3))
    async with running(settings) as service, connected(service) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HANG)
        assert head.startswith(b"HTTP/1.1 403 ")
        ended = asyncio.get_running_loop().create_task(read_end(reader))
        while not ended.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert b"MissingAuthenticationToken" in ended.result()


async def test_no_request_body_in_time(tmp_path: Path) -> None:
    settings = config(tmp_path / "state", limits=Limits(handshake_seconds=0.3))
    async with running(settings) as service, connected(service) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        answer = await read_end(reader)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"RequestTimeoutException"' in answer


async def test_connections_per_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = config(tmp_path / "state", limits=Limits(connection_rate=0.01))
    async with running(settings) as service:
        client = api(service.endpoints)
        await asyncio.to_thread(client.list_tunnels)
        async with connected(service) as (reader, _):
            answer = await read_end(reader)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in answer
        # Requests on the connection that is there are none of its business.
        await asyncio.to_thread(client.list_tunnels)
        client.close()
    assert "API connection from 127.0.0.1 refused: more than 0.01 in a second" in caplog.text
