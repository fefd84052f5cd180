"""The link's tests run on both event loops, over every way to carry a link."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.network.certificates import Certificates
from support.plugins.loops import LOOP_FACTORIES
from tailrace.link.tls import transport


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None:
    """Run each async test of this room on each loop, whether it asks for ``loop_kind`` or not."""
    return LOOP_FACTORIES if Path(__file__).parent in item.path.parents else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run every pair of loop, back end and other parameters, but not all combinations."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("pairwise")


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
