"""One end of a tunnel, and what is waited for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.service import config, running
from support.service.data_plane import open_tunnel
from tailrace.common.addresses import TCPAddress
from tailrace.common.secret import Secret
from tailrace.errors import AccessRefused, OpenFailed, TimedOut, TunnelClosed
from tailrace.localproxy.settings import ProxySettings
from tailrace.service.config import parse_address
from tailrace.service.tunneling_service import TunnelingService
from tailrace.testing import local_end
from tailrace.testing.local_end import LocalEnd
from tailrace.testing.middlebox import Middlebox
from tailrace.wire import Side


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[TunnelingService]:
    async with running(config(tmp_path / "state")) as service:
        yield service


@pytest.fixture
async def box(service: TunnelingService) -> AsyncIterator[Middlebox]:
    data = parse_address(service.endpoints.data_endpoint, "data")
    box = Middlebox(data.host, data.port, "127.0.0.1")
    await box.start()
    yield box
    await box.stop()


def settings(service: TunnelingService, box: Middlebox, token: str) -> ProxySettings:
    return ProxySettings(
        side=Side.SOURCE,
        host="127.0.0.1",
        port=box.port,
        access_token=Secret(token),
        services={"SSH": TCPAddress("127.0.0.1", 0)},
        capath=Path(service.endpoints.ca_file),
        retry_delay=0.05,
    )


@pytest.fixture
async def end(service: TunnelingService, box: Middlebox) -> AsyncIterator[LocalEnd]:
    """A source that was not started."""
    opened = await open_tunnel(service, "SSH")
    end = LocalEnd(settings(service, box, opened["sourceAccessToken"]), box)
    yield end
    await end.stop()


async def test_it_connects_loses_its_link_and_connects_again(end: LocalEnd) -> None:
    await end.start()
    assert end.is_connected
    services = end.services
    await end.cut()
    assert end.losses == 1
    await end.regained(60)
    assert end.is_connected
    assert end.services == services
    await end.stop()
    await end.stop()
    assert end.has_ended
    assert not end.is_connected


async def test_one_that_was_never_started(end: LocalEnd) -> None:
    assert end.has_ended
    await end.ended()
    await end.cut()
    await end.given_up(60)
    with pytest.raises(TunnelClosed):
        await end.regained(60)


async def test_what_does_not_come_in_time(
    end: LocalEnd, box: Middlebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.refuse()
    with monkeypatch.context() as patch:
        patch.setattr(local_end, "_READY_SECONDS", 0.05)
        with pytest.raises(OpenFailed, match="the source has not connected to the service"):
            await end.start()
    with pytest.raises(TimedOut, match="the source has not set its link up again within"):
        await end.regained(0.05)
    await box.accept()
    await end.regained(60)
    with pytest.raises(TimedOut, match="the source has not given its link up within"):
        await end.given_up(0.05)
    monkeypatch.setattr(local_end, "_READY_SECONDS", 0.05)
    monkeypatch.setattr(Middlebox, "cut", lambda _: None)
    with pytest.raises(TimedOut, match="the source has not noticed that its link was cut"):
        await end.cut()
    monkeypatch.undo()


async def test_a_token_that_is_refused(service: TunnelingService, box: Middlebox) -> None:
    end = LocalEnd(settings(service, box, "0" * 32), box)
    with pytest.raises(AccessRefused):
        await end.start()
    assert end.has_ended
    await end.stop()


async def test_a_proxy_that_does_not_hear_of_its_rotation_is_replaced(
    end: LocalEnd, service: TunnelingService, box: Middlebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same port."""
    monkeypatch.setattr(local_end, "_FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(local_end, "_END_SECONDS", 0.05)
    await end.start()
    services = end.services
    another = await open_tunnel(service, "SSH")
    box.swallow()
    restarting = asyncio.gather(end.restart(Secret(another["sourceAccessToken"])))
    await end.given_up(60)
    box.release()
    await restarting
    assert end.is_connected
    assert end.services == services
