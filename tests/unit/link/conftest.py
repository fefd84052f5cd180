"""The link's tests run on both event loops, over every way to carry a link."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import uvloop

from support_ws import Certificates
from tailrace.link import transport


def _uvloop() -> asyncio.AbstractEventLoop:
    """Return a loop that holds already what libuv keeps from its first stream on."""
    loop = uvloop.new_event_loop()

    async def open_a_stream() -> None:
        left, right = socket.socketpair()
        with right:
            made, _ = await loop.create_connection(asyncio.Protocol, sock=left)
            made.abort()
        await asyncio.sleep(0)

    loop.run_until_complete(open_a_stream())
    return loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": _uvloop}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["picows", "websockets", "websockets-on-the-loops-transports"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name the back end; the third variant is what runs where aiofastnet has no wheel."""
    name: str = request.param
    if name.endswith("transports"):
        monkeypatch.setattr(transport, "fast_transports", lambda: None)
    return name.partition("-")[0]


@pytest.fixture
def unknown_host(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name without an address, also on machines that cannot ask a name server."""
    name = "nowhere.invalid"
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **more: Any) -> Any:
        if host == name:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return name
