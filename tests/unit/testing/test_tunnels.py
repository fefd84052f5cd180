"""Whole tunnels for code that blocks."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from support.plugins.leaks import Snapshot
from support.waiting import HANG, wait_until
from tailrace.errors import CallRefused, ConfigurationError, ListenError
from tailrace.testing.tunnels import LocalTunnel, ServiceInThread, TunnelFactory, service_in_thread


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

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client, contextlib.suppress(ConnectionError):
                while data := client.recv(65536):
                    client.sendall(data.upper())

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
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
    monkeypatch.setattr("tailrace.testing.tunnels._READY_SECONDS", 0.0)
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


def test_the_service_has_settings() -> None:
    before = threading.active_count()
    with service_in_thread({"limits": "aws", "region": "eu-west-1"}) as service:
        assert service.endpoints.region == "eu-west-1"
        with service.tunnels() as open_tunnel, pytest.raises(CallRefused):
            open_tunnel(A=1, B=2, C=3, D=4)
    with pytest.raises(ConfigurationError), service_in_thread({"region": "?"}):
        pass
    with socket.create_server(("127.0.0.1", 0)) as busy:
        settings = {"api_port": busy.getsockname()[1]}
        with pytest.raises(ListenError), service_in_thread(settings):
            pass
    assert threading.active_count() == before


@pytest.mark.parametrize("level", [logging.NOTSET, logging.ERROR])
def test_the_log_has_information_where_nothing_else_is_chosen(level: int) -> None:
    logger = logging.getLogger("tailrace")
    before = logger.level
    try:
        logger.setLevel(level)
        with service_in_thread({}):
            assert logger.level == (level or logging.INFO)
        assert logger.level == level
    finally:
        logger.setLevel(before)
