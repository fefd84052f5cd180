"""One kept connection, and what servers may do to it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.network.certificates import Certificates
from support.network.https_server import (
    Close,
    Hang,
    Reset,
    ScriptedHTTPS,
    answer,
    scripted_https,
)
from support.network.sockets import black_hole
from support.waiting import HANG, until
from tailrace.aws import https
from tailrace.aws.https import HTTPSHost, NoResponse
from tailrace.errors import ConnectFailed

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def server(certificates: Certificates) -> AsyncIterator[ScriptedHTTPS]:
    async with scripted_https(certificates) as scripted:
        yield scripted


def host_at(port: int, ca_file: Path, timeout: float = HANG) -> HTTPSHost:
    context = ssl.create_default_context(cafile=str(ca_file))
    return HTTPSHost("localhost", port, context, None, timeout, {})


@pytest.fixture
async def host(server: ScriptedHTTPS, certificates: Certificates) -> AsyncIterator[HTTPSHost]:
    made = host_at(server.port, certificates.ca_file)
    yield made
    await made.close()


# -- one connection --------------------------------------------------------------------------


async def test_a_connection_is_kept(server: ScriptedHTTPS, host: HTTPSHost) -> None:
    server.answers = [answer({"a": 1}, 200, "X-A: b", "X-A: c"), answer({}, 400)]
    first, second = await host.request(REQUEST), await host.request(REQUEST)
    assert (first.status, first.body, second.status) == (200, b'{"a": 1}', 400)
    assert first.fields["x-a"] == "b, c"
    assert server.connections == 1
    await host.close()
    await until(lambda: not server.open, "the end of the connection")
    await host.close()
    assert (await host.request(REQUEST)).status == 200
    assert server.connections == 2


async def test_closed_while_a_request_is_under_way(
    server: ScriptedHTTPS, host: HTTPSHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "IDLE_SECONDS", 2 * HANG)
    request = asyncio.get_running_loop().create_task(host.request(REQUEST))
    await server.asked.wait()
    await host.close()
    assert (await request).status == 200
    assert host._idle is None
    await until(lambda: not server.open, "the end of the connection")


@pytest.mark.parametrize(
    "last",
    [
        answer({}, 200, "Connection: close"),
        answer({}, 200, "connection: x, CLOSE"),
        answer().replace(b"HTTP/1.1", b"HTTP/1.0"),
        Close(b"HTTP/1.1 200 OK\r\n\r\n{}"),
    ],
)
async def test_a_connection_is_not_kept(
    server: ScriptedHTTPS, host: HTTPSHost, last: bytes | Close
) -> None:
    server.answers = [last]
    assert (await host.request(REQUEST)).body == b"{}"
    await until(lambda: not server.open, "the end of the connection")
    assert (await host.request(REQUEST)).body == b"{}"
    assert server.connections == 2


async def test_an_idle_connection_is_closed(
    server: ScriptedHTTPS, host: HTTPSHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "IDLE_SECONDS", 0.0)
    await host.request(REQUEST)
    await until(lambda: not server.open, "the end of the connection")
    await host.request(REQUEST)
    assert server.connections == 2


async def test_an_end_that_was_seen(server: ScriptedHTTPS, host: HTTPSHost) -> None:
    server.answers = [Close(answer())]
    await host.request(REQUEST)
    kept = host._idle
    assert kept is not None
    await until(lambda: not kept.is_alive(), "the end")
    await host.request(REQUEST)
    assert (server.connections, len(server.heads)) == (2, 2)


@pytest.mark.parametrize("end", [Close(), Reset()])
async def test_an_end_at_the_moment_of_the_request(
    server: ScriptedHTTPS, host: HTTPSHost, end: Close | Reset
) -> None:
    server.answers = [answer(), end, answer({"a": 1})]
    await host.request(REQUEST)
    assert (await host.request(REQUEST)).body == b'{"a": 1}'
    assert (server.connections, len(server.heads)) == (2, 3)


async def test_what_is_not_repeatable_has_a_new_connection(
    server: ScriptedHTTPS, host: HTTPSHost
) -> None:
    await host.request(REQUEST)
    assert (await host.request(REQUEST, repeatable=False)).body == b"{}"
    assert server.connections == 2
    await host.request(REQUEST)
    assert server.connections == 2
    await until(lambda: server.open == 1, "the end of the first connection")


@pytest.mark.parametrize("end", [Close(), Reset()])
async def test_that_is_tried_once(
    server: ScriptedHTTPS, host: HTTPSHost, end: Close | Reset
) -> None:
    server.answers = [answer(), end, end, answer()]
    await host.request(REQUEST)
    with pytest.raises(NoResponse, match="the connection was ") as caught:
        await host.request(REQUEST)
    assert caught.value.was_sent
    assert len(server.heads) == 3


@pytest.mark.parametrize("kind", [Close, Reset])
async def test_what_has_begun_to_answer_is_not_asked_again(
    server: ScriptedHTTPS, host: HTTPSHost, kind: type[Close] | type[Reset]
) -> None:
    server.answers = [answer(), kind(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}")]
    await host.request(REQUEST)
    with pytest.raises(NoResponse, match=r"ended early|was lost"):
        await host.request(REQUEST)
    assert len(server.heads) == 2


# -- responses -------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: Chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", b"{}"),
        (CHUNKED + b"1;x=y\r\n{\r\n01 \r\n}\r\n0\r\nA: b\r\nC: d\r\n\r\n", b"{}"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nA: b\r\n\r\n" + answer(), b"{}"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", b""),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b""),
        (OK + b"Content-Length:\t1\t\r\n\r\nx", b"x"),
    ],
)
async def test_bodies(server: ScriptedHTTPS, host: HTTPSHost, data: bytes, body: bytes) -> None:
    """The connection is in step afterwards."""
    server.answers = [data, answer({"next": 1})]
    assert (await host.request(REQUEST)).body == body
    assert (await host.request(REQUEST)).body == b'{"next": 1}'
    assert server.connections == 1


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (Close(b"SSH-2.0-x\r\n\r\n"), "is no HTTP response"),
        (Close(b"HTTP/2 200 OK\r\n\r\n"), "is no HTTP response"),
        (Close(b"x" * 100), "ended early"),
        (Hang(b"HTTP/1.1 100 X\r\n\r\n" * 10), "does not come to an end"),
        (Hang(OK + b"no colon\r\n\r\n"), "header line that is not valid"),
        (Hang(OK + b"A : b\r\n\r\n"), "header line that is not valid"),
        (Hang(OK + b"A: b\r\n" * 101 + b"\r\n"), "too many header lines"),
        (Hang(OK + b"A: " + b"b" * 70_000), "too long"),
        (Hang(OK + b"Content-Length: 16777217\r\n\r\n"), "too long"),
        (Hang(OK + b"Content-Length: -1\r\n\r\n"), "too long, or a length that is none"),
        (Hang(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"), "length that is none"),
        (Hang(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n"), "of unknown length"),
        (Hang(CHUNKED.replace(b"200 OK", b"200 OK\r\nContent-Length: 1")), "of unknown length"),
        (Hang(CHUNKED + b"zz\r\n"), "chunk without a length"),
        (Hang(CHUNKED + b"fffffff\r\n"), "more than 16 MiB"),
        (Hang(CHUNKED + b"1\r\nabc"), "chunk without an end"),
        (Hang(CHUNKED + b"1" * 70_000), "too long"),
        (Hang(CHUNKED + b"0\r\n" + (b"A: " + b"b" * 8_000 + b"\r\n") * 9), "trailer"),
        (Close(OK + b"\r\n" + bytes(16 * MIB + 1)), "more than 16 MiB"),
    ],
)
async def test_what_is_no_response(
    server: ScriptedHTTPS, host: HTTPSHost, told: Close | Hang, said: str
) -> None:
    """It is refused when it is seen, not when the time is over, and the connection ends."""
    server.answers = [told]
    with pytest.raises(NoResponse, match=said) as caught:
        await host.request(REQUEST)
    assert caught.value.was_sent
    await until(lambda: not server.open, "the end of the connection")


# -- time ------------------------------------------------------------------------------------


async def test_a_response_that_does_not_end(
    server: ScriptedHTTPS, certificates: Certificates
) -> None:
    impatient = host_at(server.port, certificates.ca_file, 0.5)
    server.answers = [Hang(OK)]
    with pytest.raises(NoResponse, match=r"^timed out after 0.5 s$"):
        await impatient.request(REQUEST)
    await until(lambda: not server.open, "the end of the connection")


async def test_a_handshake_that_does_not_end(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        impatient = host_at(listener.getsockname()[1], certificates.ca_file, 0.1)
        with pytest.raises(NoResponse, match=r"handshake timed out after 0.1 s") as caught:
            await impatient.request(REQUEST)
        assert not caught.value.was_sent


async def test_no_answer_to_the_first_packet(certificates: Certificates) -> None:
    with black_hole() as port:
        with pytest.raises(ConnectFailed, match=r"no answer within 0.1 s"):
            await host_at(port, certificates.ca_file, 0.1).request(REQUEST)


async def test_a_handshake_that_is_dropped(certificates: Certificates) -> None:
    async def drop(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with await asyncio.start_server(drop, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NoResponse, match="lost during the TLS handshake") as caught:
            await host_at(port, certificates.ca_file).request(REQUEST)
        assert not caught.value.was_sent


# -- cancellation; that nothing stays is checked after each test -------------------------------


async def cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_while_connecting(certificates: Certificates) -> None:
    with black_hole() as port:
        request = host_at(port, certificates.ca_file).request(REQUEST)
        task = asyncio.get_running_loop().create_task(request)
        await asyncio.sleep(0)
        await cancel(task)


async def test_cancelled_in_the_handshake(certificates: Certificates) -> None:
    begun = asyncio.Event()
    ended = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        begun.set()
        await reader.read()
        writer.transport.abort()
        ended.set()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        host = host_at(server.sockets[0].getsockname()[1], certificates.ca_file)
        task = asyncio.get_running_loop().create_task(host.request(REQUEST))
        await begun.wait()
        await cancel(task)
        await ended.wait()


async def test_cancelled_in_the_response(server: ScriptedHTTPS, host: HTTPSHost) -> None:
    server.answers = [answer(), Hang(OK)]
    await host.request(REQUEST)
    server.asked.clear()
    task = asyncio.get_running_loop().create_task(host.request(REQUEST))
    await server.asked.wait()
    await cancel(task)
    await until(lambda: not server.open, "the end of the connection")
    assert (await host.request(REQUEST)).status == 200


# -- streams ---------------------------------------------------------------------------------


async def pieces_of(
    server: ScriptedHTTPS,
    host: HTTPSHost,
    told: bytes | Close | Reset | Hang,
    silence: float = HANG,
) -> bytes:
    server.answers = [told]
    async with host.stream(REQUEST, silence) as stream:
        assert stream.status == 200
        return b"".join([piece async for piece in stream.pieces()])


@pytest.mark.parametrize(
    "told",
    [
        CHUNKED + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
        Close(OK + b"\r\nabc"),
        Close(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"\r\nabc"),
    ],
)
async def test_a_stream_to_its_end(
    server: ScriptedHTTPS, host: HTTPSHost, told: bytes | Close
) -> None:
    assert await pieces_of(server, host, told) == b"abc"
    await until(lambda: not server.open, "the end of the connection")
    # It has a connection of its own.
    assert host._idle is None


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (Close(), "was closed without a response"),
        (Close(b"x"), "ended early"),
        (Close(CHUNKED + b"2\r\na"), "ended early"),
        (Close(CHUNKED + b"2\r\nabcd"), "a chunk without an end"),
        (Close(CHUNKED + b"x\r\n"), "a chunk without a length"),
        (Close(CHUNKED + b"fffffff\r\n"), "a chunk that is too long"),
        (Close(OK + b"Transfer-Encoding: gzip\r\n\r\n"), "a body of unknown length"),
        (Reset(CHUNKED + b"2\r\n"), "was lost|ended early"),
    ],
)
async def test_streams_that_break(
    server: ScriptedHTTPS, host: HTTPSHost, told: bytes | Close | Reset, said: str
) -> None:
    with pytest.raises(NoResponse, match=said):
        await pieces_of(server, host, told)


async def test_a_stream_that_falls_silent(server: ScriptedHTTPS, host: HTTPSHost) -> None:
    with pytest.raises(NoResponse, match=r"timed out after 0\.05 s"):
        await pieces_of(server, host, Hang(CHUNKED + b"1\r\na\r\n"), 0.05)
    await until(lambda: not server.open, "the end of the connection")


async def test_a_stream_that_is_none_after_all(server: ScriptedHTTPS, host: HTTPSHost) -> None:
    server.answers = [answer({"a": 1}, 403)]
    async with host.stream(REQUEST, HANG) as stream:
        assert (stream.status, await stream.body()) == (403, b'{"a": 1}')
