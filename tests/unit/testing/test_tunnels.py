"""Whole tunnels for code that blocks."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import tailrace
from support.plugins.leaks import Snapshot
from support.waiting import HANG, wait_until
from tailrace.errors import (
    AccessRefused,
    CallRefused,
    ConfigurationError,
    TimedOut,
    TunnelClosed,
    TunnelNotFound,
)
from tailrace.testing.tunnels import LocalTunnel, ServiceInThread, TunnelFactory, service_in_thread
from tailrace.wire import Side


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceInThread]:
    with service_in_thread({}) as service:
        yield service


@pytest.fixture(autouse=True)
def _connections_end() -> Iterator[None]:
    """Wait for the thread to close what clients have closed: the check for leaks does not."""
    before = Snapshot.take()
    yield
    wait_until(lambda: not Snapshot.take().leaked_since(before))


@pytest.fixture
def open_tunnel(service: ServiceInThread) -> Iterator[TunnelFactory]:
    with service.tunnels() as factory:
        yield factory


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of an application that answers with what it gets, in upper case."""

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(65536):
                client.sendall(data.upper())

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=[client]))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(HANG)


def ask(tunnel: LocalTunnel, service_id: str, data: bytes = b"hello") -> bytes:
    with socket.create_connection(tunnel.address(service_id), HANG) as client:
        sending = threading.Thread(target=client.sendall, args=[data])
        sending.start()
        answer = b""
        while len(answer) < len(data) and (more := client.recv(65536)):
            answer += more
        sending.join(HANG)
    return answer


def test_bytes_go_through(open_tunnel: TunnelFactory, echo: int) -> None:
    tunnel = open_tunnel(A=echo, B=f"127.0.0.1:{echo}")
    assert ask(tunnel, "A") == ask(tunnel, "B") == b"HELLO"
    host, port = tunnel.address("A")
    assert tunnel.url("A") == f"http://{host}:{port}"
    assert tunnel.url("A", "https") == f"https://{host}:{port}"
    assert tunnel.address("A") != tunnel.address("B")
    data = b"x" * 1_000_000
    assert ask(tunnel, "A", data) == data.upper()


def test_several_at_a_time(service: ServiceInThread, open_tunnel: TunnelFactory, echo: int) -> None:
    tunnels = [open_tunnel(HTTP=echo) for _ in range(3)]
    assert [ask(each, "HTTP") for each in tunnels] == 3 * [b"HELLO"]
    listed = service.control_client().call("ListTunnels", {})["tunnelSummaries"]
    assert {each["tunnelId"] for each in listed} == {each.tunnel_id for each in tunnels}


def test_they_are_closed_at_the_end(service: ServiceInThread, echo: int) -> None:
    with service.tunnels() as open_tunnel:
        tunnel = open_tunnel(HTTP=echo)
        assert ask(tunnel, "HTTP") == b"HELLO"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(tunnel.address("HTTP"))
    assert service.control_client().call("ListTunnels", {})["tunnelSummaries"] == []


def test_a_connection_that_nobody_reads_holds_up_nothing(
    service: ServiceInThread, echo: int
) -> None:
    with service.tunnels() as open_tunnel:
        client = socket.create_connection(open_tunnel(HTTP=echo).address("HTTP"), HANG)
        client.sendall(b"x" * 100_000)
    client.close()


@pytest.mark.parametrize("operation", ["CloseTunnel", "RotateTunnelAccessToken"])
def test_a_test_may_end_them(service: ServiceInThread, echo: int, operation: str) -> None:
    with service.tunnels() as open_tunnel:
        tunnel = open_tunnel(HTTP=echo)
        parameters: dict[str, object] = {"tunnelId": tunnel.tunnel_id}
        if operation == "CloseTunnel":
            parameters["delete"] = True
        else:
            parameters["clientMode"] = "ALL"
        service.control_client().call(operation, parameters)

        def refused() -> bool:
            try:
                socket.create_connection(tunnel.address("HTTP")).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:
                pass  # It waited in the queue of a listener that was closed.
            return False

        wait_until(refused)


def test_an_application_that_comes_later(open_tunnel: TunnelFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tunnel = open_tunnel(HTTP=port)
    assert reset(tunnel)
    with socket.create_server(("127.0.0.1", port)) as listening:
        with socket.create_connection(tunnel.address("HTTP")) as client:
            served, _ = listening.accept()
            served.sendall(b"late")
            served.close()
            assert client.recv(10) == b"late"


def reset(tunnel: LocalTunnel) -> bool:
    try:
        with socket.create_connection(tunnel.address("HTTP"), HANG) as client:
            return client.recv(1) == b""
    except ConnectionError:
        return True


def test_wrong_arguments(open_tunnel: TunnelFactory) -> None:
    for services, said in (
        ({}, "a tunnel needs services"),
        ({"HTTP": "here"}, "HTTP 'here' is not HOST:PORT"),
        ({"HTTP": 70000}, "HTTP '70000' is not HOST:PORT"),
        ({"HTTP": 0}, "HTTP: port 0 is not the port of an application"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            open_tunnel(**services)
        assert str(caught.value).startswith(said)
    with pytest.raises(CallRefused):
        open_tunnel(**{"not a service id": 1})


def test_a_service_that_the_tunnel_does_not_have(open_tunnel: TunnelFactory) -> None:
    tunnel = open_tunnel(A=1, B=2)
    with pytest.raises(ConfigurationError, match="has no service 'C', it has: A, B"):
        tunnel.url("C")


def test_a_proxy_that_cannot_connect(
    service: ServiceInThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has begun is undone."""
    monkeypatch.setattr("tailrace.testing.local_end._READY_SECONDS", 0.0)
    with service.tunnels() as open_tunnel, pytest.raises(Exception, match="has not connected"):
        open_tunnel(HTTP=1)
    assert service.control_client().call("ListTunnels", {})["tunnelSummaries"] == []


def test_other_processes(service: ServiceInThread) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "tailrace", "tunnel", "list"],
        capture_output=True,
        text=True,
        timeout=HANG,
        env={"PATH": os.environ["PATH"], **service.environment()},
    )
    assert listed.returncode == 0, listed.stderr
    assert service.endpoints.access_key_id


# -- faults --------------------------------------------------------------------------------------


each_side = pytest.mark.parametrize("side", [*Side, None], ids=lambda side: side and side.value)


@contextlib.contextmanager
def conversation(tunnel: LocalTunnel) -> Iterator[socket.socket]:
    """A connection through the tunnel that has carried something."""
    with socket.create_connection(tunnel.address("A"), HANG) as client:
        client.sendall(b"hello")
        assert client.recv(5, socket.MSG_WAITALL) == b"HELLO"
        yield client


def is_refused(tunnel: LocalTunnel) -> bool:
    try:
        socket.create_connection(tunnel.address("A"), HANG).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # it was accepted, and already given up
    return False


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let local proxies notice silence soon."""
    monkeypatch.setattr("tailrace.testing.runtime._PING_SECONDS", 0.1)


@each_side
def test_a_cut_resets_connections_and_is_over(
    open_tunnel: TunnelFactory, echo: int, side: Side | None
) -> None:
    tunnel, other = open_tunnel(A=echo), open_tunnel(A=echo)
    address = tunnel.address("A")
    with conversation(tunnel) as client, conversation(other) as spared:
        tunnel.cut(side)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        tunnel.wait_connected()
        assert ask(tunnel, "A") == b"HELLO"
        assert tunnel.address("A") == address
        spared.sendall(b"still")
        assert spared.recv(5, socket.MSG_WAITALL) == b"STILL"


def test_what_is_silent_for_a_moment_goes_on(open_tunnel: TunnelFactory, echo: int) -> None:
    tunnel = open_tunnel(A=echo)
    with conversation(tunnel) as client:
        with tunnel.silence():
            client.sendall(b"later")
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(1)
        client.settimeout(HANG)
        assert client.recv(5, socket.MSG_WAITALL) == b"LATER"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("side", [Side.SOURCE, None], ids=["source", "both"])
def test_silence_is_found_by_heartbeats(
    open_tunnel: TunnelFactory, echo: int, side: Side | None
) -> None:
    tunnel = open_tunnel(A=echo)
    with conversation(tunnel) as client:
        with tunnel.silence(side):
            tunnel.wait_disconnected(side)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            with pytest.raises(TimedOut, match="has not set its link up again within"):
                tunnel.wait_connected(timeout=0.1)
        tunnel.wait_connected()
        assert ask(tunnel, "A") == b"HELLO"


def test_a_throttled_tunnel_moves_less_than_another_one(
    open_tunnel: TunnelFactory, echo: int
) -> None:
    """Whose exchange of the same size, begun later, is over when that has hardly begun."""
    size = 300_000
    slow, quick = open_tunnel(A=echo), open_tunnel(A=echo)
    with conversation(slow) as client:
        with slow.throttle(bytes_per_second=20_000):
            sending = threading.Thread(target=client.sendall, args=[bytes(size)])
            sending.start()
            assert client.recv(1) == b"\0"
            assert len(ask(quick, "A", bytes(size))) == size
            client.setblocking(False)
            moved = 1 + _at_hand(client)
            assert moved < size / 2
            client.settimeout(HANG)
        # The others come when the road is free.
        while moved < size:
            moved += len(client.recv(65536))
        sending.join(HANG)


def _at_hand(client: socket.socket) -> int:
    size = 0
    with contextlib.suppress(BlockingIOError):
        while data := client.recv(65536):
            size += len(data)
    return size


@pytest.mark.parametrize("status", [None, 503])
def test_new_links_are_refused_for_a_while(
    open_tunnel: TunnelFactory, echo: int, status: int | None
) -> None:
    tunnel = open_tunnel(A=echo)
    with conversation(tunnel) as client, tunnel.refuse(status):
        # The links that are up stay.
        client.sendall(b"still")
        assert client.recv(5, socket.MSG_WAITALL) == b"STILL"
        tunnel.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(TimedOut):
            tunnel.wait_connected(timeout=0.2)
    tunnel.wait_connected()
    assert ask(tunnel, "A") == b"HELLO"


def test_a_side_that_a_tunnel_does_not_have(open_tunnel: TunnelFactory, echo: int) -> None:
    side: Any = "SOURCE"
    with pytest.raises(ConfigurationError, match=r"side 'SOURCE' is not a tailrace\.Side"):
        open_tunnel(A=echo).cut(side)


@pytest.mark.parametrize("side", Side)
def test_a_refused_token_is_the_end(open_tunnel: TunnelFactory, echo: int, side: Side) -> None:
    tunnel = open_tunnel(A=echo)
    with tunnel.refuse(403, side):
        tunnel.cut()
        with pytest.raises(AccessRefused, match="403"):
            tunnel.wait_connected()
    assert is_refused(tunnel) is (side is Side.SOURCE)


@each_side
def test_rotated_tokens_are_taken(
    service: ServiceInThread, open_tunnel: TunnelFactory, echo: int, side: Side | None
) -> None:
    tunnel = open_tunnel(A=echo)
    address = tunnel.address("A")
    with conversation(tunnel) as client:
        tunnel.rotate(side)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert tunnel.address("A") == address
    assert ask(tunnel, "A") == b"HELLO"
    tunnel.rotate(side)
    tunnel.wait_connected()
    assert ask(tunnel, "A") == b"HELLO"


@pytest.mark.parametrize("how", ["expire", "close"])
def test_a_tunnel_ends(
    service: ServiceInThread,
    open_tunnel: TunnelFactory,
    echo: int,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tunnel = open_tunnel(A=echo)
    with conversation(tunnel) as client:
        getattr(tunnel, how)()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert is_refused(tunnel)
    parameters = {"tunnelId": tunnel.tunnel_id}
    described = service.control_client().call("DescribeTunnel", parameters)
    assert described["tunnel"]["status"] == "CLOSED"
    with pytest.raises(TunnelClosed, match="the tunnel was closed"):
        tunnel.wait_connected()
    tunnel.wait_disconnected()
    with pytest.raises(TunnelNotFound, match=f"{tunnel.tunnel_id} is closed"):
        tunnel.expire()
    with pytest.raises(CallRefused):
        tunnel.rotate()
    tunnel.close()
    tunnel.cut()


def test_faults_of_all_links(
    service: ServiceInThread, open_tunnel: TunnelFactory, echo: int
) -> None:
    tunnels = [open_tunnel(A=echo), open_tunnel(A=echo)]
    with service.refuse(503), conversation(tunnels[0]) as client:
        service.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        for each in tunnels:
            with pytest.raises(TimedOut):
                each.wait_connected(timeout=0.1)
    for each in tunnels:
        each.wait_connected()
    with conversation(tunnels[1]) as client, service.throttle(1e6):
        with service.silence():
            client.sendall(b"later")
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(1)
        client.settimeout(HANG)
        assert client.recv(5, socket.MSG_WAITALL) == b"LATER"


@contextlib.asynccontextmanager
async def own_tunnel(
    service: ServiceInThread, echo: int
) -> AsyncIterator[tuple[str, tailrace.SourceTunnel, tailrace.DestinationTunnel]]:
    """A tunnel that a program has made itself: it goes through the same front."""
    endpoints = service.endpoints
    where: Any = {"endpoint": endpoints.data_endpoint, "ca": endpoints.ca_file}
    opened = await service.client().open(services=["A"])
    near = tailrace.Tunnel.source(opened.source_token, **where)
    far = tailrace.Tunnel.destination(opened.destination_token, {"A": echo}, **where)
    async with far, near:
        await near.wait_peer(HANG)
        yield opened.tunnel_id, near, far


async def saw(tunnel: tailrace.Tunnel, kind: type) -> Any:
    """Wait for an event."""
    async with asyncio.timeout(HANG):
        async for event in tunnel.events():
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the tunnel has ended without {kind.__name__}")


async def test_a_tunnel_of_a_program_is_cut_and_goes_on(
    service: ServiceInThread, echo: int
) -> None:
    async with own_tunnel(service, echo) as (_, near, _):
        reader, writer = await near.open_connection("A")
        seen = asyncio.gather(saw(near, tailrace.Reconnecting))
        await asyncio.to_thread(service.cut)
        await seen
        writer.write(b"x")
        assert await reader.readexactly(1) == b"X"
        writer.close()


async def test_a_tunnel_of_a_program_is_rotated_and_expires(
    service: ServiceInThread, echo: int
) -> None:
    async with own_tunnel(service, echo) as (tunnel_id, near, far):
        await service.client().rotate(tunnel_id, Side.DESTINATION)
        with pytest.raises(tailrace.TokenRotated):
            await far.wait_closed()
        seen = asyncio.gather(saw(near, tailrace.Ended))
        await asyncio.to_thread(service.expire, tunnel_id)
        (ended,) = await seen
        assert "expired" in ended.reason
        await near.wait_closed()
        with pytest.raises(TunnelClosed):
            await near.open_connection("A")
