"""The control API for code that blocks, against a real service."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.interrupts import interrupted_when
from support.network.ports import free_port
from support.processes.forks import run_forked
from support.service.process import ServiceProcess
from support.waiting import HANG
from tailrace import aws
from tailrace.aws import Credentials, Secret, TunnelState
from tailrace.errors import (
    ConfigurationError,
    ControlError,
    LocalProtocolError,
    TunnelNotFound,
)
from tailrace.sync.client import Client, asynchronous, client_around
from tailrace.sync.shared_loop import SHARED
from tailrace.wire import Side


def arguments(service: ServiceProcess) -> dict[str, Any]:
    endpoints = service.endpoints
    key = Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key))
    return {
        "region": endpoints.region,
        "endpoint": endpoints.api_endpoint,
        "credentials": key,
        "ca": endpoints.ca_file,
    }


@pytest.fixture
def client(service: ServiceProcess) -> Client:
    return Client(**arguments(service))


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """One entry for each TLS connection that is made."""
    from tailrace.aws import https

    made: list[object] = []
    original = https.HTTPSHost._connect

    async def connect(host: Any) -> Any:
        made.append(host)
        return await original(host)

    monkeypatch.setattr(https.HTTPSHost, "_connect", connect)
    return made


def use_each_call(client: Client) -> None:
    opened = client.open(services=["SSH"], description="d", tags={"a": "b"})
    tunnel = client.describe(opened.tunnel_id)
    assert (tunnel.state, tunnel.services, tunnel.description) == (TunnelState.OPEN, ("SSH",), "d")
    assert client.tags(opened.arn) == {"a": "b"}
    client.tag(opened.arn, {"c": "d"})
    client.untag(opened.tunnel_id, ["a"])
    assert client.tags(opened.arn) == {"c": "d"}
    rotated = client.rotate(opened.tunnel_id, Side.SOURCE)
    assert rotated.source_token not in (None, opened.source_token)
    assert opened.tunnel_id in [each.tunnel_id for each in client.list()]
    client.close(opened.tunnel_id, delete=True)
    with pytest.raises(TunnelNotFound) as caught:
        client.describe(opened.tunnel_id)
    assert caught.value.advice


def test_each_call(client: Client, service: ServiceProcess) -> None:
    assert (client.region, client.endpoint) == (
        service.endpoints.region,
        service.endpoints.api_endpoint,
    )
    use_each_call(client)
    assert SHARED._loop is None
    with client as entered:
        assert entered is client
        use_each_call(client)


def test_one_connection_for_a_block(client: Client, connections: list[object]) -> None:
    with client:
        for _ in range(3):
            list(client.list(limit=1))
        with client:
            list(client.list(limit=1))
        list(client.list(limit=1))
    assert len(connections) == 1
    for _ in range(2):
        list(client.list(limit=1))
    assert len(connections) == 3


def test_many_threads(client: Client) -> None:
    """With and without a block; calls that have waited for each other bind nobody to a loop."""

    def describe(tunnel_id: str) -> str:
        return client.describe(tunnel_id).tunnel_id

    for _ in range(2):
        opened = [client.open().tunnel_id for _ in range(3)] * 2
        with ThreadPoolExecutor(6) as threads:
            assert list(threads.map(describe, opened)) == opened
            with client:
                assert list(threads.map(describe, opened)) == opened


def test_a_listing_that_is_not_taken_to_its_end(client: Client) -> None:
    for _ in range(3):
        client.open(thing="many", services=["SSH"])
    assert len(list(client.list(thing="many", limit=2))) == 2
    listing = client.list(thing="many")
    first = next(listing)
    with client:
        assert next(listing).tunnel_id != first.tunnel_id
    assert SHARED._loop is not None
    del listing
    gc.collect()
    assert SHARED._loop is None


def test_errors() -> None:
    key = Credentials("AKID", Secret("s"))
    nowhere = f"https://127.0.0.1:{free_port()}"
    client = Client(region="eu-west-1", endpoint=nowhere, credentials=key, attempts=1)
    with pytest.raises(ControlError):
        client.describe("t")
    with pytest.raises(ControlError):
        next(client.list())
    with pytest.raises(ConfigurationError, match="region"):
        Client(region="Nowhere at all", endpoint=nowhere, credentials=key)
    with pytest.raises(ConfigurationError, match=r"is no tailrace\.sync\.Client"):
        asynchronous(aws.Client(region="eu-west-1", endpoint=nowhere, credentials=key))


def test_ctrl_c_during_a_call(service: ServiceProcess) -> None:
    asked, over = threading.Event(), threading.Event()
    key = arguments(service).pop("credentials")

    def credentials() -> Credentials:
        asked.set()
        assert over.wait(HANG)
        return key

    client = Client(**(arguments(service) | {"credentials": credentials}))
    with client:
        with interrupted_when(asked.is_set):
            client.describe("t")
        over.set()
        with pytest.raises(ControlError):
            client.describe("t")


def test_a_forked_process(client: Client) -> None:
    twin = client_around(asynchronous(client))

    def child() -> None:
        client.__exit__(None, None, None)
        with pytest.raises(LocalProtocolError, match="make another one here"):
            client.describe(opened.tunnel_id)
        with pytest.raises(LocalProtocolError, match="make another one here"):
            next(client.list())

    def unused_child() -> None:
        assert twin.describe(opened.tunnel_id).tunnel_id == opened.tunnel_id

    opened = client.open()
    run_forked(unused_child)
    with client:
        client.describe(opened.tunnel_id)
        run_forked(child)
        client.describe(opened.tunnel_id)
