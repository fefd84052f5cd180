"""PROXY headers: whole, in pieces, wrong, from strangers."""

import asyncio
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiofastnet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.network.sockets import reset_on_close
from support.waiting import HANG
from tailrace.errors import RemoteProtocolError
from tailrace.service.relay.proxy_protocol import (
    ProxyListener,
    header_size,
    read_header,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def v2(source: str, port: int, command: int = 1, extra: bytes = b"") -> bytes:
    address = ipaddress.ip_address(source)
    body = address.packed * 2 + struct.pack("!HH", port, 443) + extra
    family = 0x11 if address.version == 4 else 0x21
    return SIGNATURE + bytes((0x20 | command, family)) + struct.pack("!H", len(body)) + body


V4 = v2("192.0.2.7", 40000)
V6 = v2("2001:db8::1", 40001, extra=b"\x04\0\x02hi")
LINE4 = b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 443\r\n"
LINE6 = b"PROXY TCP6 2001:db8::1 ::1 40001 443\r\n"
UNKNOWN = b"PROXY UNKNOWN\r\n"
LOCAL = SIGNATURE + b"\x20\0\0\0"

GOOD = {
    V4: ("192.0.2.7", 40000),
    V6: ("2001:db8::1", 40001),
    LINE4: ("192.0.2.7", 40000),
    LINE6: ("2001:db8::1", 40001),
    UNKNOWN: None,
    b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n": None,
    LOCAL: None,
    v2("192.0.2.7", 1, command=0): None,
    # UDP and unix sockets: nothing that a TCP listener could use.
    SIGNATURE + b"\x21\x12\0\x0c" + bytes(12): None,
    SIGNATURE + b"\x21\x31\0\xd8" + bytes(216): None,
}


class TestHeaders:
    @pytest.mark.parametrize("header", GOOD)
    def test_good_ones(self, header: bytes) -> None:
        for end in range(len(header)):
            assert header_size(header[:end]) is None
        for behind in (b"", b"\x16\x03\x01", b"PROXY "):
            assert header_size(header + behind) == len(header)
        assert read_header(header) == GOOD[header]

    @pytest.mark.parametrize(
        "start",
        [
            b"\x16\x03\x01",
            b"GET / HTTP/1.1\r\n",
            b"PROXi",
            b"\r\n\r\n\0\r\nQUIX",
            SIGNATURE + b"\x21\x11\xff\xff",
            b"PROXY " + b"x" * 101,
            b"PROXY " + b"x" * 100 + b"\r\n",
        ],
    )
    def test_no_headers(self, start: bytes) -> None:
        with pytest.raises(RemoteProtocolError, match="PROXY"):
            header_size(start)

    @pytest.mark.parametrize(
        "header",
        [
            SIGNATURE + b"\x11\x11\0\x0c" + bytes(12),
            SIGNATURE + b"\x22\x11\0\x0c" + bytes(12),
            SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),
            SIGNATURE + b"\x21\x21\0\x0c" + bytes(12),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 40000\r\n",
            b"PROXY TCP4 2001:db8::1 ::1 40000 443\r\n",
            b"PROXY TCP5 192.0.2.7 10.0.0.1 40000 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 70000 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 443\r\n",
            b"PROXY TCP4 lamp 10.0.0.1 1 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 \xff 443\r\n",
            b"PROXY \r\n",
        ],
    )
    def test_malformed_ones(self, header: bytes) -> None:
        assert header_size(header) == len(header)
        with pytest.raises(RemoteProtocolError):
            read_header(header)

    @given(
        st.one_of(
            st.binary(),
            st.builds(bytes.__add__, st.sampled_from([*GOOD, SIGNATURE, b"PROXY "]), st.binary()),
        )
    )
    def test_junk_raises_nothing_else(self, data: bytes) -> None:
        try:
            size = header_size(data)
            if size is not None:
                read_header(data[:size])
        except RemoteProtocolError:
            pass


class Echo(asyncio.Protocol):
    """Answers with the client's address and what it sent."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(repr(transport.get_extra_info("peername")).encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@asynccontextmanager
async def listening(
    trusted: Iterable[ipaddress.IPv4Network] = LOOPBACK,
    *,
    timeout: float = HANG,
    fast: bool = True,
    most: int = 1000,
) -> AsyncIterator[int]:
    bound = socket.create_server(("127.0.0.1", 0))
    bound.setblocking(False)
    port: int = bound.getsockname()[1]
    listener = ProxyListener(bound, trusted, timeout, most)
    loop = asyncio.get_running_loop()
    if fast:
        server = await aiofastnet.create_server(loop, Echo, sock=listener.server_socket)
    else:
        server = await loop.create_server(Echo, sock=listener.server_socket)
    listener.start()
    try:
        yield port
    finally:
        server.close()
        listener.stop()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(HANG):
            yield reader, writer
    finally:
        writer.transport.abort()


class TestListener:
    @pytest.mark.parametrize("header", [V4, V6, LINE4, LINE6])
    async def test_the_server_sees_the_client(self, header: bytes, loop_kind: str) -> None:
        async with listening() as port, connected(port) as (reader, writer):
            writer.write(header + b"hello")
            assert await reader.readline() == repr(GOOD[header]).encode() + b"\n"
            assert await reader.readexactly(5) == b"hello"

    async def test_on_the_transports_of_asyncio(self) -> None:
        async with listening(fast=False) as port, connected(port) as (reader, writer):
            writer.write(V4 + b"hello")
            assert await reader.readline() == b"('192.0.2.7', 40000)\n"
            assert await reader.readexactly(5) == b"hello"

    async def test_one_byte_at_a_time(self) -> None:
        for header in (V4, LINE6):
            async with listening() as port, connected(port) as (reader, writer):
                for at in range(len(header)):
                    writer.write(header[at : at + 1])
                    await writer.drain()
                    await asyncio.sleep(0.001)
                writer.write(b"hello")
                assert await reader.readline() == repr(GOOD[header]).encode() + b"\n"
                assert await reader.readexactly(5) == b"hello"

    async def test_many_at_once(self) -> None:
        async with listening() as port:

            async def one(number: int) -> None:
                async with connected(port) as (reader, writer):
                    writer.write(v2("192.0.2.9", number))
                    assert await reader.readline() == f"('192.0.2.9', {number})\n".encode()

            await asyncio.gather(*(one(number) for number in range(1, 200)))

    @pytest.mark.parametrize("header", [UNKNOWN, LOCAL])
    async def test_a_proxy_that_speaks_for_itself(self, header: bytes) -> None:
        async with listening() as port, connected(port) as (reader, writer):
            writer.write(header)
            assert (await reader.readline()).startswith(b"('127.0.0.1', ")

    async def test_strangers_cannot_claim_anything(self) -> None:
        elsewhere = (ipaddress.ip_network("10.0.0.0/8"),)
        async with listening(elsewhere) as port, connected(port) as (reader, writer):
            assert (await reader.readline()).startswith(b"('127.0.0.1', ")
            writer.write(LINE4)
            assert await reader.readline() == LINE4

    async def test_no_header(self, caplog: pytest.LogCaptureFixture) -> None:
        async with listening() as port, connected(port) as (reader, writer):
            writer.write(b"\x16\x03\x01")
            assert await read_all(reader) == b""
        assert "connection from ('127.0.0.1', " in caplog.text
        assert "refused: no PROXY header" in caplog.text

    async def test_a_malformed_header(self, caplog: pytest.LogCaptureFixture) -> None:
        async with listening() as port, connected(port) as (reader, writer):
            writer.write(b"PROXY TCP4 lamp\r\n")
            assert await read_all(reader) == b""
        assert "malformed" in caplog.text

    async def test_silence(self) -> None:
        async with listening(timeout=0.05) as port, connected(port) as (reader, _):
            assert await read_all(reader) == b""

    async def test_too_many_without_a_header(self, caplog: pytest.LogCaptureFixture) -> None:
        """The one that has waited longest makes room; who sends a header gets through."""
        async with (
            listening(most=1) as port,
            connected(port) as (first, _),
            connected(port) as (second, writer),
        ):
            assert await read_all(first) == b""
            writer.write(V4)
            assert await second.readline() == b"('192.0.2.7', 40000)\n"
        assert "refused: no PROXY header, and too many wait" in caplog.text

    async def test_a_client_that_leaves(self) -> None:
        async with listening() as port:
            for reset in (False, True):
                with socket.create_connection(("127.0.0.1", port)) as client:
                    if reset:
                        reset_on_close(client)
                    await asyncio.sleep(0.05)
            async with connected(port) as (reader, writer):
                writer.write(V4)
                assert await reader.readline() == b"('192.0.2.7', 40000)\n"

    async def test_stopping_drops_what_waits(self) -> None:
        async with listening() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PROXY ")
            await asyncio.sleep(0.05)
        assert await read_all(reader) == b""
        writer.transport.abort()

    async def test_no_descriptors_left(self, caplog: pytest.LogCaptureFixture) -> None:
        """Accepting goes on when the system has descriptors again."""
        import resource

        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with listening() as port:
            client = socket.socket()
            lowest = client.fileno() + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
            try:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
                async with asyncio.timeout(HANG):
                    while "cannot accept connections" not in caplog.text:
                        await asyncio.sleep(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(V4)
            async with asyncio.timeout(HANG):
                assert await reader.readline() == b"('192.0.2.7', 40000)\n"
            writer.transport.abort()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Read to the end, also when that is a reset."""
    try:
        async with asyncio.timeout(HANG):
            return await reader.read()
    except ConnectionResetError:
        return b""
