"""Both ends of a tunnel in code that blocks."""

from __future__ import annotations

import gc
import hashlib
import os
import socket
import ssl
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tailrace
from support.interrupts import interrupted_when
from support.network.certificates import Certificates
from support.network.ports import free_port
from support.service.process import ServiceProcess
from support.tunnel import Tunnel as OpenTunnel
from support.tunnel import tunnel_of
from support.waiting import HANG, wait_until
from tailrace.errors import (
    ConfigurationError,
    ListenError,
    LocalProtocolError,
    OpenFailed,
    TimedOut,
    TokenRotated,
    TunnelClosed,
)
from tailrace.library import (
    Connected,
    ConnectionClosed,
    Ended,
    LinkPhase,
    PeerLeft,
    PeerPresence,
)
from tailrace.sync.handlers import Application
from tailrace.sync.tunnel import DestinationTunnel, SourceTunnel, Tunnel
from tailrace.wire import Side


def echo(sock: socket.socket) -> None:
    while data := sock.recv(1 << 16):
        sock.sendall(data)


def near(tunnel: OpenTunnel, **changes: Any) -> SourceTunnel:
    endpoint = tunnel.endpoints.data_endpoint
    options = {"endpoint": endpoint, "timeout": HANG} | changes
    return Tunnel.source(tunnel.tokens[Side.SOURCE].reveal(), **options)


def far(tunnel: OpenTunnel, services: dict[str, Application], **changes: Any) -> DestinationTunnel:
    endpoint = tunnel.endpoints.data_endpoint
    options = {"endpoint": endpoint, "timeout": HANG} | changes
    return Tunnel.destination(tunnel.tokens[Side.DESTINATION].reveal(), services, **options)


@contextmanager
def both(
    service: ServiceProcess, **services: Application
) -> Iterator[tuple[SourceTunnel, DestinationTunnel]]:
    """Both ends of a tunnel, which know of each other."""
    with tunnel_of(service, *services) as tunnel:
        with far(tunnel, services) as destination, near(tunnel) as source:
            source.wait_peer(timeout=HANG)
            destination.wait_peer(timeout=HANG)
            yield source, destination


# -- entering and leaving -------------------------------------------------------------------------


def test_a_tunnel_can_be_used_as_soon_as_it_is_entered(service: ServiceProcess):
    with both(service, SSH=echo, WEB=echo) as (source, destination):
        assert source.status().service_ids == destination.status().service_ids == ("SSH", "WEB")
        assert source.status().peer is destination.status().peer is PeerPresence.CONNECTED
        assert repr(source) == f"<sync.SourceTunnel at {source.status().link.endpoint}: connected>"
        for name in ("WEB", "SSH"):
            with source.open_connection(name) as connection:
                connection.write(b"hello\n")
                assert connection.readline() == b"hello\n"
    for tunnel in (source, destination):
        assert tunnel.status().link.phase is LinkPhase.ENDED
        tunnel.wait_closed()
        tunnel.close()
        with pytest.raises(TunnelClosed):
            tunnel.wait_peer()


def test_it_is_entered_once_and_used_inside(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        tunnel = near(opened)
        events = tunnel.events()
        for use in (
            tunnel.wait_peer,
            tunnel.wait_closed,
            lambda: tunnel.open_connection("SSH"),
            lambda: tunnel.listen("SSH"),
        ):
            with pytest.raises(LocalProtocolError, match="not entered: use it in a with block"):
                use()
        tunnel.close()
        assert tunnel.status().link.phase is LinkPhase.NOT_STARTED
        with tunnel as entered:
            assert entered is tunnel
            with pytest.raises(LocalProtocolError, match="entered once"):
                tunnel.__enter__()
        assert [type(each) for each in events][-1] is Ended


def test_its_client_token_lets_it_in_again(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        with near(opened) as first:
            pass
        with near(opened, client_token=first.client_token) as second:
            assert second.client_token == first.client_token


def test_arguments_that_cannot_be():
    with pytest.raises(ConfigurationError, match="Region must contain"):
        Tunnel.source("token", region="eu west", endpoint=None)
    with pytest.raises(ConfigurationError, match="resume_timeout=-1"):
        Tunnel.source("token", endpoint="localhost", resume_timeout=-1)
    with pytest.raises(ConfigurationError, match="resume_timeout=-1"):
        Tunnel.destination("token", {"SSH": echo}, endpoint="localhost", resume_timeout=-1)
    with pytest.raises(ConfigurationError, match="max_threads=0"):
        Tunnel.destination("token", {"SSH": echo}, endpoint="localhost", max_threads=0)
    with pytest.raises(ConfigurationError, match="Service ID must contain"):
        Tunnel.destination("token", {"SSH=22": 22}, endpoint="localhost")
    services: Any = tailrace.ServiceMap({"SSH": 22})
    with pytest.raises(ConfigurationError, match="a ServiceMap belongs to an event loop"):
        Tunnel.destination("token", services, endpoint="localhost")
    services = ["SSH"]
    with pytest.raises(ConfigurationError, match="services are a dictionary"):
        Tunnel.destination("token", services, endpoint="localhost")


def test_ctrl_c_while_connecting():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(HANG)
        tunnel = Tunnel.source("t", endpoint=f"127.0.0.1:{silent.getsockname()[1]}", timeout=None)
        accepted: list[socket.socket] = []

        def connects() -> bool:
            accepted.append(silent.accept()[0])
            return True

        with interrupted_when(connects), tunnel:
            raise AssertionError
        accepted[0].close()
    assert tunnel.status().link.phase is LinkPhase.ENDED


def test_errors_are_those_of_the_library():
    with pytest.raises(TimedOut, match=r"the tunnel could not be used within 0\.01 s") as caught:
        Tunnel.source("t", endpoint="127.0.0.1:1", timeout=0.01).__enter__()
    assert caught.value.advice
    assert caught.value.__cause__ is None


# -- waiting --------------------------------------------------------------------------------------


def test_waiting_in_vain(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened, near(opened) as tunnel:
        with pytest.raises(TimedOut, match=r"no destination has connected .* within 0\.01 s"):
            tunnel.wait_peer(timeout=0.01)
        with pytest.raises(TimedOut, match=r"the tunnel was not closed within 0\.01 s"):
            tunnel.wait_closed(timeout=0.01)


@pytest.mark.parametrize("call", ["wait_peer", "wait_closed", "events"])
def test_ctrl_c_while_waiting(service: ServiceProcess, call: str, monkeypatch: pytest.MonkeyPatch):
    begun = threading.Event()
    with tunnel_of(service, "SSH") as opened, near(opened) as tunnel:
        waits = {
            "wait_peer": tunnel.wait_peer,
            "wait_closed": tunnel.wait_closed,
            "events": lambda: list(tunnel.events()),
        }
        run = tunnel._block.run_anytime

        def noted(work: Any) -> Any:
            begun.set()
            return run(work)

        monkeypatch.setattr(tunnel._block, "run_anytime", noted)
        with interrupted_when(begun.is_set):
            waits[call]()
        assert tunnel.status().link.phase is LinkPhase.CONNECTED


def test_the_end_of_the_tunnel_is_told(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened, near(opened) as tunnel:
        opened.control.call(
            "RotateTunnelAccessToken", {"tunnelId": opened.tunnel_id, "clientMode": "SOURCE"}
        )
        with pytest.raises(TokenRotated) as caught:
            tunnel.wait_closed(timeout=HANG)
        assert caught.value.advice
        with pytest.raises(TunnelClosed):
            tunnel.open_socket("SSH")


def test_a_new_token_takes_the_place_of_a_rotated_one(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        tunnel = near(opened, renewal_timeout=HANG)
        assert tunnel.tunnel_id is None
        with pytest.raises(LocalProtocolError, match="not entered"):
            tunnel.renew("token")
        events = tunnel.events()
        with tunnel:
            parameters = {"tunnelId": opened.tunnel_id, "clientMode": "SOURCE"}
            rotated = opened.control.call("RotateTunnelAccessToken", parameters)
            tunnel.renew(rotated["sourceAccessToken"])
            assert [next(each for each in events if isinstance(each, Connected)) for _ in "12"]


def test_another_thread_closes_it(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened, near(opened) as tunnel:
        with ThreadPoolExecutor(3) as threads:
            events = tunnel.events()
            waiting = threads.submit(tunnel.wait_closed)
            listing = threads.submit(list, events)
            threads.submit(tunnel.close).result(HANG)
            assert waiting.result(HANG) is None
            # Whether it has heard by then that nobody is there is a matter of chance.
            kinds = [type(each) for each in listing.result(HANG)]
            assert [kind for kind in kinds if kind is not PeerLeft] == [Ended]


def test_events_from_the_beginning_to_the_end(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened, ThreadPoolExecutor(1) as threads:
        tunnel = near(opened)
        from_another_thread = threads.submit(list, tunnel.events())
        events = tunnel.events()
        assert iter(events) is events
        with tunnel:
            while not isinstance(event := next(events), Connected):
                assert not isinstance(event, Ended)
        assert isinstance(list(events)[-1], Ended)
        assert isinstance(from_another_thread.result(HANG)[-1], Ended)
        assert list(tunnel.events()) == []


# -- connections ----------------------------------------------------------------------------------


def test_a_connection_is_a_file(service: ServiceProcess):
    def answer(sock: socket.socket) -> None:
        with sock.makefile("rb") as file:
            sock.sendall(file.read(13))

    with both(service, SSH=answer) as (source, _):
        with source.open_connection("SSH") as connection:
            assert connection.readable()
            assert connection.writable()
            assert not connection.seekable()
            assert connection.write(array("h", b"one\ntw")) == 6
            assert connection.write(b"o\nthree") == 7
            connection.write_eof()
            assert [*connection] == [b"one\n", b"two\n", b"three"]
        assert connection.closed
        assert connection.socket.fileno() == -1
        with source.open_connection("SSH") as connection:
            connection.socket.settimeout(0.01)
            with pytest.raises(TimeoutError):
                connection.read(1)


def test_a_socket_is_a_socket(service: ServiceProcess):
    with both(service, SSH=echo) as (source, _), source.open_socket("SSH") as sock:
        assert type(sock) is socket.socket
        assert sock.gettimeout() is None
        with sock.makefile("rw", encoding="utf-8", newline="\n") as file:
            file.write("hello\n")
            file.flush()
            assert file.readline() == "hello\n"


def test_tls_inside_of_a_connection(service: ServiceProcess, tmp_path: Path):
    certificates = Certificates(tmp_path)
    context = certificates.server_context()

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(tls.recv(5))
            tls.unwrap().close()

    trust = ssl.create_default_context(cafile=certificates.ca_file)
    with both(service, SSH=serve) as (source, _):
        sock = source.open_socket("SSH")
        sock.settimeout(HANG)
        with trust.wrap_socket(sock, server_hostname="localhost") as tls:
            tls.sendall(b"hello")
            assert tls.recv(99) == b"hello"
            assert tls.recv(99) == b""


def test_many_connections_at_the_same_time(service: ServiceProcess):
    """More than there are threads for handlers."""

    def exchange(source: SourceTunnel) -> bool:
        data = os.urandom(1 << 16)
        with source.open_connection("SSH") as connection:
            connection.write(data)
            return connection.read() == hashlib.sha256(data).digest()

    def digest(sock: socket.socket) -> None:
        with sock.makefile("rb") as file:
            sock.sendall(hashlib.sha256(file.read(1 << 16)).digest())

    with tunnel_of(service, "SSH") as opened:
        with far(opened, {"SSH": digest}, max_threads=3), near(opened) as source:
            with ThreadPoolExecutor(12) as threads:
                assert all(threads.map(exchange, [source] * 48))


def test_an_end_in_order_and_a_cut(service: ServiceProcess):
    def say(sock: socket.socket) -> None:
        sock.sendall(b"bye")

    def fail(sock: socket.socket) -> None:
        sock.sendall(b"half")
        sock.recv(1)
        raise ValueError("broken")

    with both(service, SSH=say, WEB=fail) as (source, _):
        with source.open_connection("SSH") as connection:
            assert connection.read() == b"bye"
        with source.open_connection("WEB") as connection:
            assert connection.read(4) == b"half"
            connection.write(b"!")
            with pytest.raises(ConnectionResetError):
                connection.read(1)
        with source.open_connection("SSH") as connection:
            pass
        sock = source.open_socket("WEB")
        assert sock.recv(4) == b"half"
    with sock, pytest.raises(ConnectionResetError):
        sock.recv(1)


def test_connections_that_cannot_be(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened, near(opened) as source:
        for call in (source.open_connection, source.open_socket, source.listen):
            with pytest.raises(OpenFailed) as caught:
                call("HTTP")
            assert caught.value.advice == "The services of the tunnel are SSH"


def test_opening_waits_for_a_link(service: ServiceProcess, monkeypatch: pytest.MonkeyPatch):
    begun = threading.Event()

    async def wait(_: str) -> socket.socket:
        begun.set()
        raise TimeoutError("of somebody else")

    with tunnel_of(service, "SSH") as opened, near(opened) as source:
        with pytest.raises(TimedOut, match="no connection to SSH could be opened within 0 s"):
            source.open_socket("SSH", timeout=0)
        monkeypatch.setattr(source._source, "open_socket", wait)
        with pytest.raises(TimeoutError, match="of somebody else"):
            source.open_socket("SSH", timeout=HANG)


def test_ctrl_c_when_there_was_a_socket(service: ServiceProcess, monkeypatch: pytest.MonkeyPatch):
    with both(service, SSH=echo) as (source, _):
        run = source._block.run

        def interrupted(work: Any) -> None:
            run(work)
            raise KeyboardInterrupt

        monkeypatch.setattr(source._block, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            source.open_socket("SSH")
        gc.collect()  # a socket that nobody has closed would warn
        wait_until(lambda: not source.status().connections, "the end of the connection")


def test_a_listener(service: ServiceProcess):
    with both(service, SSH=echo) as (source, _):
        with source.listen("SSH") as server:
            assert repr(server) == (f"<sync.TunnelListener of SSH at {server.host}:{server.port}>")
            assert (server.service, server.host) == ("SSH", "127.0.0.1")
            with socket.create_connection((server.host, server.port)) as client:
                client.sendall(b"hello")
                assert client.recv(5) == b"hello"
            with pytest.raises(ListenError):
                source.listen("SSH", port=server.port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port))
        with pytest.raises(ConfigurationError, match="host="):
            source.listen("SSH", "not a host")
        last = source.listen("SSH", port=free_port())
    last.close()


# -- destinations ---------------------------------------------------------------------------------


def test_addresses_and_handlers(service: ServiceProcess):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        services: dict[str, Application] = {"A": f"127.0.0.1:{port}", "B": port, "C": echo}
        with both(service, **services) as (source, destination):
            events = destination.events()
            for name in ("A", "B"):
                with source.open_connection(name) as connection:
                    accepted, _ = server.accept()
                    with accepted:
                        accepted.sendall(name.encode())
                    assert connection.read() == name.encode()
            with source.open_connection("C") as connection:
                connection.write(b"hello")
                assert connection.read(5) == b"hello"
            closed = (each for each in events if isinstance(each, ConnectionClosed))
            peers = {next(closed).peer for _ in services}
            assert peers == {f"127.0.0.1:{port}", str(port), "in process"}


def test_handlers_end_with_the_tunnel(service: ServiceProcess):
    ends: list[object] = []
    begun = threading.Event()

    def wait(sock: socket.socket) -> None:
        begun.set()
        try:
            ends.append(sock.recv(1))
        except ConnectionResetError as error:
            ends.append(error)
            raise

    with tunnel_of(service, "SSH") as opened, near(opened) as source:
        with far(opened, {"SSH": wait}) as destination, source.open_socket("SSH") as sock:
            assert begun.wait(HANG)
        assert len(ends) == 1
        assert destination.status().link.phase is LinkPhase.ENDED
        del sock


def test_a_handler_may_close_its_tunnel(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened, near(opened) as source:
        with far(opened, {"SSH": lambda _: destination.close()}) as destination:
            with source.open_socket("SSH"):
                destination.wait_closed(timeout=HANG)


def test_it_is_what_the_package_offers():
    assert tailrace.sync.Tunnel is Tunnel
    assert tailrace.sync.SourceTunnel is SourceTunnel
