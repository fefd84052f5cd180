from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from contextlib import suppress

import pytest

from tailrace.common.addresses import TCPAddress
from tailrace.control.documents import Document
from tailrace.control.metrics import metrics_served
from tailrace.errors import ConfigurationError, ListenError

ANY = TCPAddress("127.0.0.1", 0)


def document() -> Document:
    return {"kind": "agent", "version": "1.2", "tunnels": []}


async def ask(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Return the first line, and the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.split(b"\r\n")[0], body


@pytest.mark.usefixtures("loop_kind")
async def test_requests(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    async with metrics_served(ANY, document):
        (said,) = (each for each in caplog.messages if each.startswith("metrics at http://127."))
        port = int(said.removesuffix("/metrics").rpartition(":")[2])
        for path in (b"/metrics", b"/metrics?name[]=up"):
            line, body = await ask(port, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert line == b"HTTP/1.1 200 OK"
            assert b'tailrace_proxy_info{kind="agent",version="1.2"} 1.0\n' in body
            assert b"process_resident_memory_bytes" in body
        assert await ask(port, b"HEAD /metrics HTTP/1.0\r\n\r\n") == (b"HTTP/1.1 200 OK", b"")
        for wrong in (b"GET / HTTP/1.1", b"POST /metrics HTTP/1.1", b"\x16\x03\x01"):
            line, _ = await ask(port, wrong + b"\r\n\r\n")
            assert line == b"HTTP/1.1 404 Not Found"
        with suppress(ConnectionError):  # it was not read to its end
            line, _ = await ask(port, b"GET /metrics HTTP/1.1\r\n" + b"x" * 100_000)
            assert line == b"HTTP/1.1 400 Bad Request"


async def test_an_address_that_cannot_be_bound():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = TCPAddress("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ListenError, match="Address already in use") as found:
            async with metrics_served(address, document):
                pass
    assert found.value.errno == errno.EADDRINUSE
    with pytest.raises(ListenError, match=r"metrics at host\.invalid:9100"):
        async with metrics_served(TCPAddress("host.invalid", 9100), document):
            pass


async def test_a_missing_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "tailrace.common.exposition", raising=False)
    with pytest.raises(ConfigurationError, match="need the package prometheus-client"):
        async with metrics_served(ANY, document):
            pass
