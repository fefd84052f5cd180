"""One tunnel that is served: until it ends, with whatever token it takes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.network.applications import check_echo, echo
from support.network.ports import free_port
from support.service.process import ServiceProcess
from support.tunnel import Tunnel as OpenTunnel
from support.tunnel import tunnel_of
from support.tunnel.agent import kept_of, rotated
from support.waiting import HANG, until
from tailrace.agent import served_tunnel as module
from tailrace.agent.notification import Notification
from tailrace.agent.served_tunnel import DestinationSettings, ServedTunnel, TunnelPhase, destination
from tailrace.agent.state import KeptTunnel
from tailrace.common.secret import Secret
from tailrace.errors import AccessRefused, ConfigurationError, ServiceIdMismatch, TokenRotated
from tailrace.library import ServiceMap, Tunnel
from tailrace.wire import Side

NOBODYS = Notification(Secret("a-token-of-nobody"), None, ("SSH",))


def settings_for(tunnel: OpenTunnel, **changes: Any) -> DestinationSettings:
    values = {"services": ServiceMap({"SSH": echo}), "endpoint": tunnel.endpoints.data_endpoint}
    return DestinationSettings(**(values | changes))


class Serving:
    """A tunnel that is being served, and what it tells."""

    def __init__(self, kept: KeptTunnel, settings: DestinationSettings, lifetime: float) -> None:
        self.released: list[KeptTunnel] = []
        self.changes = 0
        self.served = ServedTunnel(kept, settings, lifetime, self.released.append, self._changed)
        self.running = asyncio.get_running_loop().create_task(self.served.run())

    def _changed(self) -> None:
        self.changes += 1

    async def reached(self, phase: TunnelPhase) -> None:
        await until(lambda: self.served.phase is phase or self.running.done(), phase.value)
        assert self.served.phase is phase, self.running

    def drop_link(self) -> None:
        assert self.served._tunnel is not None
        link = self.served._tunnel._proxy._uplink.link
        assert link is not None
        link.abort()


@asynccontextmanager
async def serving(
    kept: KeptTunnel, settings: DestinationSettings, lifetime: float = HANG
) -> AsyncIterator[Serving]:
    found = Serving(kept, settings, lifetime)
    try:
        yield found
    finally:
        found.running.cancel()
        await asyncio.wait([found.running])


async def check_served(tunnel: OpenTunnel) -> None:
    """Send bytes through the tunnel."""
    token, endpoint = tunnel.tokens[Side.SOURCE], tunnel.endpoints.data_endpoint
    async with Tunnel.source(token, endpoint=endpoint) as source:
        await source.wait_peer(timeout=HANG)
        reader, writer = await source.open_connection("SSH")
        await check_echo((reader, writer), b"hello")
        writer.close()


async def test_it_is_served_until_it_is_closed(service: ServiceProcess, loop_kind: str) -> None:
    with tunnel_of(service, "SSH") as opened:
        kept = kept_of(opened)
        async with serving(kept, settings_for(opened)) as found:
            assert found.served.phase is TunnelPhase.CONNECTING
            assert not found.served.was_up
            await found.reached(TunnelPhase.UP)
            await check_served(opened)
            assert found.served.connections <= 1
            assert found.served.was_up
            assert found.changes == 1
            assert found.released == []
            await asyncio.to_thread(opened.close)
            assert await found.running == "closed, or expired"
        assert found.released == []
        assert found.served.notifications == (kept,)
        assert found.served.connections == 0


async def test_it_ends_with_its_lifetime(service: ServiceProcess) -> None:
    with tunnel_of(service, "SSH") as opened:
        async with serving(kept_of(opened), settings_for(opened), lifetime=0.05) as found:
            assert await found.running == "its lifetime is over"


async def test_it_ends_in_order_when_it_is_cancelled(service: ServiceProcess) -> None:
    with tunnel_of(service, "SSH") as opened:
        async with serving(kept_of(opened), settings_for(opened)) as found:
            await found.reached(TunnelPhase.UP)
            found.running.cancel()
            await asyncio.wait([found.running])
            assert found.running.cancelled()
        # With the same client token, the next one is let in.
        async with serving(kept_of(opened), settings_for(opened)) as found:
            await found.reached(TunnelPhase.UP)


async def test_a_refused_token_is_final(service: ServiceProcess) -> None:
    with tunnel_of(service, "SSH") as opened:
        kept = kept_of(opened, Secret("not-a-token-of-this-service"))
        async with serving(kept, settings_for(opened)) as found:
            with pytest.raises(AccessRefused) as caught:
                await found.running
        assert caught.value.advice


async def test_services_that_are_not_mapped_are_final(service: ServiceProcess) -> None:
    with tunnel_of(service, "WEB") as opened:
        async with serving(kept_of(opened), settings_for(opened)) as found:
            with pytest.raises(ServiceIdMismatch):
                await found.running


async def test_a_rotation_ends_it_where_the_service_tells_no_tunnel(
    service: ServiceProcess,
) -> None:
    with tunnel_of(service, "SSH") as opened:
        async with serving(kept_of(opened), settings_for(opened)) as found:
            await found.reached(TunnelPhase.UP)
            await asyncio.to_thread(rotated, opened)
            with pytest.raises(TokenRotated):
                await found.running


async def test_it_goes_on_with_the_token_of_a_rotation(service: ServiceProcess) -> None:
    with tunnel_of(service, "SSH") as opened:
        kept = kept_of(opened, tunnel_id=opened.tunnel_id)
        async with serving(kept, settings_for(opened)) as found:
            assert found.served.label == opened.tunnel_id
            await found.reached(TunnelPhase.UP)
            token = await asyncio.to_thread(rotated, opened)
            await found.reached(TunnelPhase.WAITING)
            assert found.released == []
            renewed = kept_of(opened, token, tunnel_id=opened.tunnel_id)
            found.served.renew(renewed)
            assert found.served.kept is renewed
            await found.reached(TunnelPhase.UP)
            assert found.released == [kept]
            await check_served(opened)
            found.drop_link()
            await until(lambda: found.changes >= 4)
            await found.reached(TunnelPhase.UP)
            assert found.served.notifications == (renewed,)


async def test_connections_that_wait_for_the_link_are_logged(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with tunnel_of(service, "SSH") as opened:
        kept = kept_of(opened, tunnel_id="t")
        token, endpoint = opened.tokens[Side.SOURCE], opened.endpoints.data_endpoint
        async with serving(kept, settings_for(opened)) as found:
            async with Tunnel.source(token, endpoint=endpoint) as source:
                await source.wait_peer(timeout=HANG)
                streams = await source.open_connection("SSH")
                await check_echo(streams, b"before")
                found.drop_link()
                await until(lambda: "tunnel t: resumed after" in caplog.text)
                await check_echo(streams, b"after")
                streams[1].close()
    assert "tunnel t: paused: link lost, 1 connection waits up to 120 s" in caplog.messages
    (resumed,) = (each for each in caplog.messages if "resumed" in each)
    assert re.fullmatch(r"tunnel t: resumed after \d+\.\d s, \d+ B sent again", resumed)


async def test_an_application_that_cannot_be_reached_is_logged(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with tunnel_of(service, "SSH") as opened:
        kept = kept_of(opened, tunnel_id="t")
        token, endpoint = opened.tokens[Side.SOURCE], opened.endpoints.data_endpoint
        settings = settings_for(opened, services=ServiceMap({"SSH": nobody}))
        async with serving(kept, settings), Tunnel.source(token, endpoint=endpoint) as source:
            await source.wait_peer(timeout=HANG)
            reader, writer = await source.open_connection("SSH")
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)
            writer.close()
    (told,) = (record.message for record in caplog.records if nobody in record.message)
    assert told.startswith(f"tunnel t: Could not connect to destination {nobody}")


async def test_a_wrong_new_token_does_not_cost_the_tunnel(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with tunnel_of(service, "SSH") as opened:
        kept = kept_of(opened, tunnel_id="t")
        wrong = [kept_of(opened, Secret(f"wrong-{n}-of-a-stranger"), tunnel_id="t") for n in "12"]
        async with serving(kept, settings_for(opened)) as found:
            await found.reached(TunnelPhase.UP)
            for each in wrong:
                found.served.renew(each)
            assert found.released == wrong[:1]
            found.drop_link()
            await until(lambda: "a new token was of no use" in caplog.text)
            await found.reached(TunnelPhase.UP)
            assert found.released == wrong
            assert found.served.kept is kept
            await check_served(opened)
    assert "of-a-stranger" not in caplog.text


async def test_a_token_that_comes_while_the_one_before_is_refused(
    service: ServiceProcess,
) -> None:
    with tunnel_of(service, "SSH") as opened:
        kept = kept_of(opened, Secret("old-token-that-is-refused"))
        async with serving(kept, settings_for(opened)) as found:
            await asyncio.sleep(0)
            found.served.renew(kept_of(opened))
            await found.reached(TunnelPhase.UP)
        assert kept in found.released


async def test_a_certificate_that_is_not_trusted_yet_is_tried_again(
    service: ServiceProcess,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(module, "_LONGEST_DELAY", 0.01)
    trusted = service.endpoints.ca_file
    # As with a clock that is not set: this may pass.
    monkeypatch.delenv("SSL_CERT_FILE")
    attempts: list[KeptTunnel] = []
    make = module.destination

    def note(kept: KeptTunnel, *rest: Any) -> Any:
        attempts.append(kept)
        return make(kept, *rest)

    monkeypatch.setattr(module, "destination", note)
    with tunnel_of(service, "SSH") as opened:
        async with serving(kept_of(opened), settings_for(opened)) as found:
            await until(lambda: len(attempts) > 2)
            assert found.served.phase is TunnelPhase.WAITING
            monkeypatch.setenv("SSL_CERT_FILE", trusted)
            await found.reached(TunnelPhase.UP)
    causes = [record for record in caplog.records if "certificate" in record.message]
    assert len(causes) == 1
    assert "Add the CA" in causes[0].message


async def test_a_network_that_is_away_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    settings = DestinationSettings(services=ServiceMap({"SSH": 22}), endpoint=endpoint)
    kept = KeptTunnel(NOBODYS, Secret("c" * 32), 0.0)
    async with serving(kept, settings) as found:
        await found.reached(TunnelPhase.WAITING)
        tunnel = found.served._tunnel
        assert tunnel is not None
        for _ in range(3):
            found.served._tell("refused", "")
    messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 2
    assert messages[0].startswith(f"tunnel {kept.label}: ")
    assert endpoint in messages[0]


@pytest.mark.parametrize(
    ("region", "endpoint", "host"),
    [
        ("eu-west-1", None, "data.tunneling.iot.eu-west-1.amazonaws.com:443"),
        (None, None, "data.tunneling.iot.us-west-2.amazonaws.com:443"),
        ("eu-west-1", "localhost:7444", "localhost:7444"),
        ("cn-north-1", None, "data.tunneling.iot.cn-north-1.amazonaws.com.cn:443"),
    ],
)
def test_the_region_of_the_notification_goes_first(
    region: str | None, endpoint: str | None, host: str
) -> None:
    services = ServiceMap({"SSH": 22})
    settings = DestinationSettings(services=services, region="us-west-2", endpoint=endpoint)
    kept = KeptTunnel(Notification(Secret("t"), region), Secret("c" * 32), 0.0)
    assert destination(kept, settings).status().link.endpoint == host


def test_settings_that_make_no_sense_are_told() -> None:
    settings = DestinationSettings(services=ServiceMap({"SSH": 22}), endpoint="local host")
    with pytest.raises(ConfigurationError, match="invalid characters"):
        destination(KeptTunnel(NOBODYS, Secret("c" * 32), 0.0), settings)
