"""HTTP connections that are too many, or never ask for anything."""

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h11
import pytest

from support.service import api, config, running, trust
from support.waiting import HANG, until
from tailrace.aws.signing import authorization, timestamp
from tailrace.common.secret import Secret
from tailrace.service.api import server
from tailrace.service.config import Address, OperationSettings
from tailrace.service.limits import Limits
from tailrace.service.tunneling_service import TunnelingService


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[TunnelingService]:
    async with running(config(tmp_path / "state")) as service:
        yield service


def address_of(service: TunnelingService) -> tuple[str, int]:
    host, _, port = service.endpoints.api_endpoint.removeprefix("https://").rpartition(":")
    return host, int(port)


def list_request(service: TunnelingService) -> bytes:
    """A signed request for the list of all tunnels."""
    endpoints = service.endpoints
    date = timestamp(time.time())
    headers = [
        ("host", endpoints.api_endpoint.removeprefix("https://")),
        ("x-amz-date", date),
        ("x-amz-target", "IoTSecuredTunneling.ListTunnels"),
    ]
    signed = authorization(
        endpoints.access_key_id,
        Secret(endpoints.secret_access_key),
        endpoints.region,
        "IoTSecuredTunneling",
        date,
        headers,
        b"{}",
    )
    fields = [*headers, ("authorization", signed), ("content-length", "2")]
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"POST / HTTP/1.1\r\n{lines}\r\n{{}}".encode()


@contextlib.asynccontextmanager
async def connected(service: TunnelingService) -> Any:
    host, port = address_of(service)
    reader, writer = await asyncio.open_connection(
        host, port, ssl=trust(service.endpoints), server_hostname=host
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
        writer.write(list_request(service)[:-1])
        answer = await read_end(reader)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"RequestTimeoutException"' in answer


async def test_silence_instead_of_tls(tmp_path: Path) -> None:
    settings = config(tmp_path / "state", limits=Limits(handshake_seconds=0.3))
    async with running(settings) as service:
        reader, writer = await asyncio.open_connection(*address_of(service))
        assert await read_end(reader) == b""
        writer.close()


async def test_connections_per_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = config(tmp_path / "state", limits=Limits(connection_rate=0.01))
    async with running(settings) as service:
        client = api(service.endpoints)
        await asyncio.to_thread(client.list_tunnels)
        # Before TLS: nothing is said, and nothing was computed.
        reader, writer = await asyncio.open_connection(*address_of(service))
        assert await read_end(reader) == b""
        writer.close()
        # Requests on the connection that is there are none of its business.
        await asyncio.to_thread(client.list_tunnels)
        client.close()
    assert "API connection from 127.0.0.1 refused: more than 0.01 in a second" in caplog.text


async def test_connections_that_are_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also of clients that are known: they keep as many as the limit says."""
    settings = config(tmp_path / "state", limits=Limits(address_connections=1))
    async with running(settings) as service:
        client = api(service.endpoints)
        await asyncio.to_thread(client.list_tunnels)
        reader, writer = await asyncio.open_connection(*address_of(service))
        assert await read_end(reader) == b""
        writer.close()
        client.close()
        async with asyncio.timeout(HANG):
            while True:
                with contextlib.suppress(ConnectionError):
                    async with connected(service):
                        break
    assert "API connection from 127.0.0.1 refused: 1 of its address are open" in caplog.messages


async def test_metrics_have_the_same_gate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(handshake_seconds=0.3, address_connections=1)
    operation = OperationSettings(metrics_listen=Address("127.0.0.1", 0))
    async with running(config(tmp_path / "state", limits=limits, operation=operation)) as service:
        assert service.metrics_address is not None
        address = (service.metrics_address.host, service.metrics_address.port)
        for expected in ("refused: 1 of its address are open", "dropped: no request in time"):
            silent, first = await asyncio.open_connection(*address)
            if "refused" in expected:
                reader, second = await asyncio.open_connection(*address)
                assert await read_end(reader) == b""
                second.close()
            assert await read_end(silent) == b""
            first.close()
            assert f"metrics connection from 127.0.0.1 {expected}" in caplog.messages


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


INVALID = b"GET /healthz HTTP/1.1\r\n\r\n"


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer, and return its head."""
    async with asyncio.timeout(HANG):
        head = await reader.readuntil(b"\r\n\r\n")
        (size,) = (
            int(line.partition(b":")[2])
            for line in head.splitlines()
            if line.startswith(b"content-length:")
        )
        await reader.readexactly(size)
        return head


async def test_nobody_keeps_a_connection_for_ever(service: TunnelingService) -> None:
    """A health check each second would."""
    async with connected(service) as (reader, writer):
        for number in range(50):
            writer.write(HEALTH)
            head = await read_answer(reader)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert (b"connection: close\r\n" in head.lower()) is (number == 49)
        assert await read_end(reader) == b""


async def test_known_clients_may_send_as_many_as_they_like(service: TunnelingService) -> None:
    async with connected(service) as (reader, writer):
        for request in [HEALTH] * 48 + [list_request(service)] + [HEALTH] * 48:
            writer.write(request)
            head = await read_answer(reader)
            assert b"connection: close\r\n" not in head.lower()


async def test_pools_of_known_clients_last(tmp_path: Path) -> None:
    """A connection of theirs is kept when one of a stranger, used later, has been closed."""
    settings = config(tmp_path / "state", limits=Limits(handshake_seconds=0.3))
    async with running(settings) as service, connected(service) as (reader, writer):
        writer.write(list_request(service))
        await read_answer(reader)
        async with connected(service) as (stranger, to_stranger):
            to_stranger.write(HEALTH)
            await read_answer(stranger)
            assert await read_end(stranger) == b""
        writer.write(list_request(service))
        assert (await read_answer(reader)).startswith(b"HTTP/1.1 200 ")


async def test_pools_of_known_clients_do_not_last_for_ever(
    service: TunnelingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server._KEEP_ALIVE_SECONDS == 75
    monkeypatch.setattr(server, "_KEEP_ALIVE_SECONDS", 0)
    async with connected(service) as (reader, writer):
        writer.write(list_request(service))
        await read_answer(reader)
        assert await read_end(reader) == b""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[server._Connection]]:
    """Connections of servers that start in the test."""
    made: list[weakref.ref[server._Connection]] = []
    enter = server._Connection.connection_made

    def connection_made(self: server._Connection, transport: Any) -> None:
        made.append(weakref.ref(self))
        enter(self, transport)

    monkeypatch.setattr(server._Connection, "connection_made", connection_made)
    return made


async def test_answers_that_nobody_takes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made: list[weakref.ref[server._Connection]],
) -> None:
    """Requests that come all the same wait at the client, and the connection ends."""
    monkeypatch.setattr(server, "_ANSWER_SECONDS", 0.3)
    settings = config(tmp_path / "state", limits=Limits(handshake_seconds=0.3))
    async with running(settings) as service:
        client = api(service.endpoints)
        for _ in range(20):
            await asyncio.to_thread(client.open_tunnel, description="x" * 2000)
        client.close()
        # A reader takes 128 KiB and pauses; the rest fills what the system has to offer.
        async with connected(service) as (reader, writer):
            writer.write(list_request(service) * 5000)
            async with asyncio.timeout(HANG):
                while len(made) < 2:
                    await asyncio.sleep(0.01)
                connection = made[-1]()
                while "dropped: its answers are not taken" not in caplog.text:
                    await asyncio.sleep(0.01)
            assert connection is not None
            assert len(connection._http.waiting) < 512 * 1024
            assert len(connection._http.trailing_data[0]) <= 32 * 1024
            assert len(await read_end(reader)) < 1000 * 20 * 2000


async def test_a_body_that_nobody_reads_keeps_no_connection(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: list[weakref.ref[server._Connection]],
) -> None:
    """What comes behind the answer is thrown away until the client closes, too."""
    monkeypatch.setattr(server, "_TLS_SHUTDOWN_SECONDS", 10 * HANG)
    settings = config(tmp_path / "state", limits=Limits(address_connections=1))
    async with running(settings) as service:
        async with connected(service) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            writer.write(bytes(1_000_000))
            assert (await read_end(reader)).startswith(b"HTTP/1.1 403 ")
            connection = made[-1]()
            assert connection is None or not connection._http.waiting
        async with asyncio.timeout(HANG):
            while True:
                with contextlib.suppress(ConnectionError):
                    async with connected(service):
                        break


async def test_connections_are_freed_at_once(
    service: TunnelingService, made: list[weakref.ref[server._Connection]]
) -> None:
    """With their buffers, and not when the garbage collector runs next."""
    gc.disable()
    try:
        for content in (HEALTH, list_request(service), INVALID):
            async with connected(service) as (reader, writer):
                writer.write(content)
                await (read_end(reader) if content is INVALID else read_answer(reader))
        async with asyncio.timeout(HANG):
            while any(each() for each in made):
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_stopping_waits_for_nobody_in_tls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(config(tmp_path / "state")) as service:
        reader, writer = await asyncio.open_connection(*address_of(service))
        # Connections are accepted in the order in which they come.
        async with connected(service):
            pass
    assert await read_end(reader) == b""
    writer.close()
    assert "were dropped" not in caplog.text


async def test_stopping_drops_requests_that_take_too_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_STOP_SECONDS", 0)
    async with running(config(tmp_path / "state")) as service, connected(service) as stream:
        reader, writer = stream
        state = service._running.api._server.server_state
        writer.write(list_request(service)[:-1])
        await until(lambda: state.tasks)
        await asyncio.wait_for(service.stop(), HANG)
        assert not state.tasks
        assert not state.connections
        assert await read_end(reader) == b""
    assert "requests that took more than 0 s were dropped" in caplog.text


class TestHttp:
    """What h11 is not asked to parse."""

    HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"

    @pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Content-Length: 3"])
    def test_a_body_waits_until_it_is_wanted(self, framing: bytes) -> None:
        """In chunks of one byte it costs a hundred times what it takes to send it."""
        http = server._Http()
        body = b"1\r\nx\r\n" * 3 + b"0\r\n\r\n" if b"chunked" in framing else b"xxx"
        http.receive_data(self.HEAD + framing + b"\r\n\r\n" + body)
        assert isinstance(http.next_event(), h11.Request)
        assert [http.next_event() for _ in range(3)] == [h11.NEED_DATA] * 3
        http.is_body_held = False
        received = b""
        while isinstance(event := http.next_event(), h11.Data):
            received += event.data
        assert received == b"xxx"
        assert isinstance(event, h11.EndOfMessage)

    def test_h11_is_given_no_more_than_it_asks_for(self) -> None:
        http = server._Http()
        http.receive_data((self.HEAD + b"\r\n") * 10_000)
        assert isinstance(http.next_event(), h11.Request)
        assert isinstance(http.next_event(), h11.EndOfMessage)
        assert http.next_event() is h11.PAUSED
        assert len(http.trailing_data[0]) <= 16 * 1024

    @pytest.mark.parametrize("more", [b"", b"Content-Length: 0\r\n"])
    def test_no_body(self, more: bytes) -> None:
        http = server._Http()
        http.receive_data(self.HEAD + more + b"\r\n")
        assert isinstance(http.next_event(), h11.Request)
        assert isinstance(http.next_event(), h11.EndOfMessage)

    @pytest.mark.parametrize("end", [b"\r\n", b""])
    def test_lines_are_counted_before_they_are_parsed(self, end: bytes) -> None:
        http = server._Http()
        http.receive_data(self.HEAD + b"a:b\r\n" * 196 + b"Content-Length: 900\r\n" + end)
        if end:
            http.receive_data(b"\n" * 900)
            assert isinstance(http.next_event(), h11.Request)
            return
        assert http.next_event() is h11.NEED_DATA
        http.receive_data(b"a:b\r\n" * 2)
        with pytest.raises(h11.RemoteProtocolError, match="too many header fields"):
            http.next_event()


async def test_heads_of_very_many_fields(service: TunnelingService) -> None:
    async with connected(service) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 300 + b"\r\n")
        assert (await read_end(reader)).startswith(b"HTTP/1.1 400 ")
