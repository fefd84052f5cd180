"""A service that refuses every link."""

import asyncio
import ssl
from pathlib import Path

import pytest

from support.network.certificates import Certificates
from support.network.sockets import Streams, hang_up
from support.waiting import HANG
from tailrace.testing import refusal
from tailrace.testing.refusal import refusing_service


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def connect(certificates: Certificates, address: tuple[str, int]) -> Streams:
    trust = ssl.create_default_context(cafile=certificates.ca_file)
    return await asyncio.open_connection(*address, ssl=trust, server_hostname="localhost")


@pytest.mark.parametrize(
    ("status", "line"),
    [(503, b"HTTP/1.1 503 Service Unavailable"), (403, b"HTTP/1.1 403 Forbidden")],
)
async def test_a_request_is_refused(certificates: Certificates, status: int, line: bytes) -> None:
    async with refusing_service(status, certificates.server_context()) as address:
        reader, writer = await connect(certificates, address)
        writer.write(b"GET /tunnel HTTP/1.1\r\nHost: h\r\n")
        writer.write(b"\r\n")
        async with asyncio.timeout(HANG):
            response = await reader.read()
        assert response.startswith(line + b"\r\n")
        assert response.endswith(b"\r\n\r\n")
        await hang_up(writer)
    with pytest.raises(ConnectionRefusedError):
        await connect(certificates, address)


async def test_who_asks_for_nothing_is_left(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time for a request is over, and when nobody is refused any more."""
    async with refusing_service(503, certificates.server_context()) as address:
        silent = await connect(certificates, address)
        gone = await connect(certificates, address)
        gone[1].transport.abort()
        endless = await connect(certificates, address)
        endless[1].write(bytes(200_000))
        async with asyncio.timeout(HANG):
            assert await _end(endless) == b""
        monkeypatch.setattr(refusal, "_REQUEST_SECONDS", 0.0)
        with pytest.raises(OSError):
            await connect(certificates, address)
    async with asyncio.timeout(HANG):
        assert await _end(silent) == b""
    for _, writer in (silent, gone, endless):
        await hang_up(writer)


async def _end(streams: Streams) -> bytes:
    try:
        return await streams[0].read()
    except (ConnectionError, ssl.SSLError):
        return b""
