"""Blocking sockets through web proxies; ``tailrace tunnel`` is their user."""

from __future__ import annotations

import asyncio
import threading

import pytest

from support.network.applications import application, echo
from support.network.ports import free_port
from support.network.sockets import black_hole
from support.network.web_proxies import proxy_server
from support.waiting import HANG, wait_until
from tailrace.common.addresses import TCPAddress
from tailrace.common.secret import Secret
from tailrace.errors import ConnectFailed
from tailrace.link import ServiceEndpoint
from tailrace.link.proxy.proxied_socket import proxied_socket
from tailrace.link.proxy.settings import WebProxy
from tailrace.wire import Side


def endpoint(port: int) -> ServiceEndpoint:
    return ServiceEndpoint(
        host="127.0.0.1",
        port=port,
        side=Side.SOURCE,
        access_token=Secret("none"),
        connect_timeout=HANG,
    )


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tailrace web proxy"]


async def test_bytes_go_both_ways() -> None:
    async with application(echo) as where, proxy_server() as proxy:
        assert isinstance(where, TCPAddress)

        def exchange() -> bytes:
            with proxied_socket(endpoint(where.port), proxy.settings("http")) as sock:
                assert sock.getblocking()
                sock.sendall(b"there and back\n")
                with sock.makefile("rb") as received:
                    return received.readline()

        assert await asyncio.to_thread(exchange) == b"there and back\n"
    assert helpers() == []


def test_nobody_listens() -> None:
    proxy = WebProxy("http", "127.0.0.1", free_port())
    with pytest.raises(ConnectFailed, match="web proxy"), proxied_socket(endpoint(1), proxy):
        pass
    assert helpers() == []


def test_an_interrupt_waits_for_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C does while the proxy is silent."""

    def interrupt(*_: object) -> None:
        wait_until(helpers, "the thread")
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupt)
    with (
        black_hole() as port,
        pytest.raises(KeyboardInterrupt),
        proxied_socket(endpoint(1), WebProxy("http", "127.0.0.1", port)),
    ):
        pass
    assert helpers() == []
