"""``tailrace.sync.connect`` against a real service, with a device in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from support.interrupts import interrupted_when
from support.service.process import ServiceProcess
from support.waiting import HANG, wait_until
from tailrace.aws import Credentials, Secret, TunnelState
from tailrace.errors import ConfigurationError, ControlError, TimedOut
from tailrace.sync.client import Client
from tailrace.sync.connector import connect
from tailrace.sync.tunnel import Tunnel
from tailrace.wire import Side


@pytest.fixture
def client(service: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> Client:
    endpoints = service.endpoints
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", endpoints.data_endpoint)
    key = Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key))
    return Client(
        region=endpoints.region,
        endpoint=endpoints.api_endpoint,
        credentials=key,
        ca=endpoints.ca_file,
    )


def greet(sock: socket.socket) -> None:
    sock.sendall(b"hello from the device\n")


@contextmanager
def device(client: Client, thing: str) -> Iterator[None]:
    """A device that serves the first tunnel of a thing as soon as there is one."""

    def serve() -> None:
        wait_until(lambda: list(client.list(thing=thing)), "a tunnel")
        (tunnel,) = client.list(thing=thing)
        token = client.rotate(tunnel.tunnel_id, Side.DESTINATION).destination_token
        assert token is not None
        with Tunnel.destination(token, {"SSH": greet}, timeout=HANG) as far:
            far.wait_closed(timeout=HANG)

    serving = threading.Thread(target=serve)
    serving.start()
    yield
    serving.join()


def states(client: Client, thing: str) -> list[TunnelState]:
    return [each.state for each in client.list(thing=thing)]


def test_a_tunnel_for_as_long_as_the_block_lasts(client: Client) -> None:
    with device(client, "a"), client:
        hour = timedelta(hours=1)
        with (
            connect("a", services=["SSH"], lifetime=hour, timeout=HANG, client=client) as tunnel,
            tunnel.open_connection("SSH") as connection,
        ):
            assert connection.readline() == b"hello from the device\n"
            assert states(client, "a") == [TunnelState.OPEN]
    assert states(client, "a") == [TunnelState.CLOSED]


def test_a_tunnel_that_is_taken_stays_open(client: Client) -> None:
    opened = client.open(services=["SSH"])
    with Tunnel.destination(opened.destination_token, {"SSH": greet}, timeout=HANG):
        for _ in range(2):
            with connect(tunnel_id=opened.tunnel_id, client=client) as tunnel:
                assert tunnel.tunnel_id == opened.tunnel_id
                assert tunnel.open_connection("SSH").read() == b"hello from the device\n"
        assert client.describe(opened.tunnel_id).state is TunnelState.OPEN


def test_it_makes_a_client_of_its_own(
    client: Client, service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints = service.endpoints
    for name, value in {
        "AWS_ACCESS_KEY_ID": endpoints.access_key_id,
        "AWS_SECRET_ACCESS_KEY": endpoints.secret_access_key,
        "AWS_REGION": endpoints.region,
        "AWS_ENDPOINT_URL_IOTSECURETUNNELING": endpoints.api_endpoint,
        "AWS_CA_BUNDLE": endpoints.ca_file,
    }.items():
        monkeypatch.setenv(name, value)
    with device(client, "b"), connect("b", services=["SSH"], timeout=HANG):
        pass
    assert states(client, "b") == [TunnelState.CLOSED]


def test_what_raises_in_the_block_is_raised_and_closes_the_tunnel(client: Client) -> None:
    error = SystemExit("the very same")
    with device(client, "c"), pytest.raises(SystemExit) as caught:
        with connect("c", services=["SSH"], timeout=HANG, client=client):
            raise error
    assert caught.value is error
    assert states(client, "c") == [TunnelState.CLOSED]


def test_a_failure_to_close_is_noted_on_what_was_raised(client: Client) -> None:
    with device(client, "d"), pytest.raises(ValueError, match="mine") as caught:
        with connect("d", services=["SSH"], timeout=HANG, client=client):
            (tunnel,) = client.list(thing="d")
            client.close(tunnel.tunnel_id)
            original = client._client.close

            async def close(tunnel_id: str) -> None:
                raise ControlError("", "broken")

            client._client.close = close
            raise ValueError("mine")
    client._client.close = original
    assert caught.value.__notes__ == [f"the tunnel {tunnel.tunnel_id} may still be open: broken"]


def test_ctrl_c_while_waiting_for_the_device_closes_the_tunnel(client: Client) -> None:
    with interrupted_when(lambda: states(client, "e") == [TunnelState.OPEN]):
        with connect("e", services=["SSH"], timeout=None, client=client):
            raise AssertionError
    assert states(client, "e") == [TunnelState.CLOSED]


def test_a_device_that_does_not_come(client: Client) -> None:
    with pytest.raises(TimedOut) as caught:
        with connect("f", services=["SSH"], timeout=0.5, client=client):
            raise AssertionError
    assert "device" in str(caught.value)
    assert states(client, "f") == [TunnelState.CLOSED]


def test_arguments_that_cannot_be(client: Client) -> None:
    with pytest.raises(ConfigurationError, match="which tunnel"):
        connect()
    wrong = connect("t", services=["SSH"], client=client, endpoint="h", resume_timeout=-1)
    with pytest.raises(ConfigurationError, match="resume_timeout=-1"), wrong:
        raise AssertionError
