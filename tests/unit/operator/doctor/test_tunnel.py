"""What is told about a tunnel, by a real service."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from support.service import ServiceProcess
from support.waiting import HANG
from tailrace.aws import Client, SideState
from tailrace.checks.findings import Verdict
from tailrace.errors import ServiceIdMismatch, TunnelNotFound
from tailrace.library import Side, Tunnel
from tailrace.operator.doctor.tunnel import TokenUseless, TunnelChecks


@pytest.fixture
def thing() -> str:
    return f"pump-{uuid4()}"


async def test_a_thing_with_an_open_tunnel(client: Client, thing: str) -> None:
    old = await client.open(thing=thing, services=["SSH"])
    new = await client.open(thing=thing, services=["SSH", "HTTP"])
    checks = TunnelChecks(client, thing, None, ["HTTP"])
    finding = await checks.check_tunnel()
    assert finding.verdict is Verdict.OK
    assert finding.figure.startswith(
        f"{new.tunnel_id} of {thing} was opened 0 s ago, 11 hours left"
    )
    assert finding.figure.endswith("; one of 2 that are open")
    assert old.tunnel_id not in finding.figure
    assert (await checks.check_services()).figure == "SSH, HTTP"
    source = await checks.check_side(Side.SOURCE)
    assert source.verdict is Verdict.OK
    assert source.figure.endswith("the place is free")
    destination = await checks.check_side(Side.DESTINATION)
    assert destination.verdict is Verdict.WARNING
    assert destination.fix.endswith(f"tailrace tunnel rotate {new.tunnel_id} --mode destination")


async def test_who_is_connected(client: Client, service: ServiceProcess, thing: str) -> None:
    opened = await client.open(thing=thing, services=["SSH"])
    async with Tunnel.destination(
        opened.destination_token,
        {"SSH": 22},
        endpoint=service.endpoints.data_endpoint,
        timeout=HANG,
    ):
        checks = TunnelChecks(client, None, opened.tunnel_id, [])
        await checks.check_tunnel()
        finding = await checks.check_side(Side.DESTINATION)
    assert finding.verdict is Verdict.OK
    assert finding.figure.startswith("connected, for ")


@pytest.mark.parametrize(
    ("asked", "fix"),
    [
        ("ssh", "write SSH, if that is meant: upper and lower case differ"),
        ("SHS", "write SSH, if that is meant"),
        ("VNC", "use what it has; or open another one: tailrace tunnel open --service SSH"),
    ],
)
async def test_a_service_that_the_tunnel_does_not_have(
    client: Client, asked: str, fix: str
) -> None:
    opened = await client.open(services=["SSH"])
    checks = TunnelChecks(client, None, opened.tunnel_id, [asked])
    await checks.check_tunnel()
    finding = await checks.check_services()
    assert finding.verdict is Verdict.FAILED
    assert finding.figure == f"the tunnel has SSH, and not {asked}"
    assert finding.fix.startswith(fix)
    assert isinstance(finding.cause, ServiceIdMismatch)


async def test_a_tunnel_without_service_ids(client: Client) -> None:
    opened = await client.open()
    checks = TunnelChecks(client, None, opened.tunnel_id, [])
    await checks.check_tunnel()
    assert (await checks.check_services()).figure == "none: one service without a name"


async def test_a_tunnel_that_was_closed(client: Client, thing: str) -> None:
    opened = await client.open(thing=thing, services=["SSH"])
    await client.close(opened.tunnel_id)
    checks = TunnelChecks(client, None, opened.tunnel_id, [])
    finding = await checks.check_tunnel()
    assert finding.verdict is Verdict.FAILED
    assert isinstance(finding.cause, TokenUseless)
    assert finding.fix == f"open another one: tailrace tunnel open --thing {thing} --service SSH"
    assert (await checks.check_side(Side.SOURCE)).figure == "no open tunnel"
    # For its thing there is just none.
    finding = await TunnelChecks(client, thing, None, ["SSH"]).check_tunnel()
    assert finding.verdict is Verdict.SKIPPED
    assert finding.figure.startswith(f"{thing} has no open tunnel; the last one ended ")
    assert finding.fix == f"open one: tailrace tunnel open --thing {thing} --service SSH"


async def test_a_thing_without_any(client: Client, thing: str) -> None:
    checks = TunnelChecks(client, thing, None, [])
    finding = await checks.check_tunnel()
    assert finding.verdict is Verdict.SKIPPED
    assert finding.fix.startswith("check the name of the thing; open one: ")
    assert (await checks.check_services()).verdict is Verdict.SKIPPED
    assert (await checks.check_side(Side.SOURCE)).verdict is Verdict.SKIPPED


async def test_a_tunnel_that_is_not_known(client: Client) -> None:
    with pytest.raises(TunnelNotFound):
        await TunnelChecks(client, None, "no-such-tunnel", []).check_tunnel()


async def test_a_tunnel_that_ends_soon(client: Client) -> None:
    opened = await client.open(lifetime=timedelta(minutes=5))
    finding = await TunnelChecks(client, None, opened.tunnel_id, []).check_tunnel()
    assert finding.verdict is Verdict.WARNING
    assert "4 minutes left" in finding.figure


async def test_a_service_that_does_not_say_since_when(client: Client) -> None:
    opened = await client.open()
    checks = TunnelChecks(client, None, opened.tunnel_id, [])
    await checks.check_tunnel()
    assert checks.found is not None
    checks.found = replace(checks.found, source=SideState(is_connected=True))
    assert (await checks.check_side(Side.SOURCE)).figure == "connected"


async def test_the_tunnel_that_has_what_is_asked_for(client: Client, thing: str) -> None:
    old = await client.open(thing=thing, services=["VNC"])
    new = await client.open(thing=thing, services=["SSH"])
    for asked, opened in (("VNC", old), ("SSH", new), ("HTTP", new)):
        checks = TunnelChecks(client, thing, None, [asked])
        await checks.check_tunnel()
        assert checks.found is not None
        assert checks.found.tunnel_id == opened.tunnel_id
