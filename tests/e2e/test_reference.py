"""Our proxy at one end, the C++ one at the other.

The reference has no flow control towards its local sockets: it gets a large buffer, and what
comes through it is read at once.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from support.network.applications import (
    Handler,
    application,
    check_closed,
    check_echo,
    client,
    echo,
    exchange,
    mirror,
)
from support.network.ports import free_port
from support.processes.child import Process, clean_environment, process
from support.service import ServiceProcess
from support.tunnel import RunningProxy, Tunnel, running_proxy, tunnel_of
from support.waiting import HANG, until
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.addresses import LocalAddress, ServiceAddresses, TCPAddress
from tailrace.common.secret import Secret
from tailrace.errors import LinkError
from tailrace.localproxy.events import ConnectionCut, ConnectionOpened
from tailrace.localproxy.settings import PeerVersion
from tailrace.wire import Side

REFERENCE = os.environ.get("LOCALPROXY_REFERENCE", "")
ADDRESS_SPACE = 8 << 30
"""Bytes; the reference keeps whatever a local socket does not take."""
SIZES = (1, 64_512, 64_513, 2 * 1024 * 1024)

pytestmark = pytest.mark.skipif(
    not REFERENCE, reason="LOCALPROXY_REFERENCE does not name the C++ command"
)

Form = tuple[tuple[str, ...], PeerVersion]

NAMED: Form = ("SSH", "HTTP"), PeerVersion.AUTO
UNNAMED: Form = (), PeerVersion.AUTO
V2: Form = ("SSH", "HTTP"), PeerVersion.V2
V1: Form = ("SSH",), PeerVersion.V1
V1_UNNAMED: Form = (), PeerVersion.V1

# A reference destination of a tunnel with a service id refuses the messages of a V1 source.
CASES = {
    "source-V3": (Side.SOURCE, NAMED),
    "source-V3-unnamed": (Side.SOURCE, UNNAMED),
    "source-V2": (Side.SOURCE, V2),
    "source-V1": (Side.SOURCE, V1),
    "source-V1-unnamed": (Side.SOURCE, V1_UNNAMED),
    "destination-V3": (Side.DESTINATION, NAMED),
    "destination-V3-unnamed": (Side.DESTINATION, UNNAMED),
    "destination-V2": (Side.DESTINATION, V2),
    "destination-V1-unnamed": (Side.DESTINATION, V1_UNNAMED),
}


def cases(*names: str) -> pytest.MarkDecorator:
    """Run a test with the reference in these roles: its mode, and what messages carry."""
    return pytest.mark.parametrize(
        ("role", "form"), [CASES[name] for name in names], ids=list(names)
    )


each_case = cases(*CASES)
each_v3_case = cases(*(name for name in CASES if "V3" in name))


@contextmanager
def reference(
    directory: Path, tunnel: Tunnel, side: Side, services: ServiceAddresses, *options: str
) -> Iterator[Process]:
    """The C++ command at one end of a tunnel."""
    settings = directory / "settings.json"
    settings.write_text(
        json.dumps({"tunneling": {"proxy": {"tcp": {"write_buffer_size": "67108864"}}}})
    )
    entries = (f"{name}={where}" if name else str(where) for name, where in services.items())
    command = [
        *("prlimit", f"--as={ADDRESS_SPACE}"),
        *(REFERENCE, "-s" if side is Side.SOURCE else "-d", ",".join(entries)),
        *("-e", tunnel.endpoints.data_endpoint, "-c", tunnel.endpoints.ca_dir),
        *("--settings-json", str(settings), "-v", "5", *options),
    ]
    token = {"AWSIOT_TUNNEL_ACCESS_TOKEN": tunnel.tokens[side].reveal()}
    work = directory / "work"
    work.mkdir()
    with process("reference", command, work, clean_environment(**token)) as started:
        yield started


@dataclass(frozen=True)
class Rig:
    """A tunnel with the reference at one end."""

    tunnel: Tunnel
    theirs: Process
    ours: RunningProxy
    ports: list[LocalAddress]
    """Where the source listens."""
    relistens: bool
    """Whether the reference stops listening for the time of a connection: a V1 or V2 source
    does, and ends a client that comes too early."""

    async def free(self, port: LocalAddress, connections: int) -> None:
        """Wait until a client can come after the ``connections``-th one on ``port``."""
        if self.relistens:
            line = f"Listening for new connection on port {port.port}\n"
            await until(
                lambda: self.theirs.log.count(line) > connections or not self.theirs.running,
                "the reference to listen again",
            )


@asynccontextmanager
async def connected(
    service: ServiceProcess, directory: Path, role: Side, form: Form, handler: Handler
) -> AsyncIterator[Rig]:
    """A tunnel to applications, one for each service, with the reference in ``role``."""
    names, version = form
    old = () if version is PeerVersion.AUTO else ("-y", version.value)
    async with AsyncExitStack() as stack:
        tunnel = stack.enter_context(tunnel_of(service, *names))
        where: dict[str, LocalAddress] = {
            name: await stack.enter_async_context(application(handler)) for name in names or ("",)
        }
        if role is Side.DESTINATION:
            theirs = stack.enter_context(reference(directory, tunnel, role, where))
            await theirs.said("Extracting service Ids from control message")
            settings = tunnel.settings(Side.SOURCE, peer_version=version)
            ours = await stack.enter_async_context(running_proxy(settings))
            ports = list((await ours.ready()).values())
        else:
            settings = tunnel.settings(Side.DESTINATION, services=where)
            ours = await stack.enter_async_context(running_proxy(settings))
            await ours.ready()
            chosen = {name: TCPAddress("", free_port()) for name in where}
            theirs = stack.enter_context(
                reference(directory, tunnel, role, chosen, "-b", "127.0.0.1", *old)
            )
            for address in chosen.values():
                await theirs.said(f"Listening for new connection on port {address.port}")
            ports = [TCPAddress("127.0.0.1", address.port) for address in chosen.values()]
        yield Rig(tunnel, theirs, ours, ports, role is Side.SOURCE and bool(old))


@each_case
async def test_payloads(service: ServiceProcess, tmp_path: Path, role: Side, form: Form):
    async with connected(service, tmp_path, role, form, mirror) as rig:
        for turn, size in enumerate(SIZES):
            for port in rig.ports:
                await rig.free(port, turn)
                await exchange(port, size, seed=turn)
        assert rig.theirs.running


@each_v3_case
async def test_several_connections_at_once(
    service: ServiceProcess, tmp_path: Path, role: Side, form: Form
):
    async with connected(service, tmp_path, role, form, mirror) as rig:
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                port = rig.ports[number % len(rig.ports)]
                group.create_task(exchange(port, 1_000_000, seed=number))
                # The reference lets one client wait to be accepted, and resets the next ones.
                await asyncio.sleep(0.02)
        assert rig.theirs.running


@each_case
async def test_a_server_that_speaks_first(
    service: ServiceProcess, tmp_path: Path, role: Side, form: Form
):
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        await echo(reader, writer)

    async with connected(service, tmp_path, role, form, greet) as rig:
        port = rig.ports[0]
        for turn in range(2):
            await rig.free(port, turn)
            async with asyncio.timeout(HANG), client(port) as streams:
                assert await streams[0].readexactly(11) == b"SSH-2.0-x\r\n"
                await check_echo(streams, b"and the client after it")


@each_case
async def test_the_end_of_the_application_reaches_the_client(
    service: ServiceProcess, tmp_path: Path, role: Side, form: Form
):
    async def one_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())

    async with connected(service, tmp_path, role, form, one_line) as rig:
        port = rig.ports[0]
        for turn, word in enumerate((b"first\n", b"second\n")):
            await rig.free(port, turn)
            async with client(port) as streams:
                await check_echo(streams, word)
                await check_closed(streams)


@each_v3_case
async def test_closing_the_tunnel_ends_both(
    service: ServiceProcess, tmp_path: Path, role: Side, form: Form
):
    async with (
        connected(service, tmp_path, role, form, echo) as rig,
        client(rig.ports[0]) as streams,
    ):
        await check_echo(streams, b"open")
        await asyncio.to_thread(rig.tunnel.close)
        await check_closed(streams)
        assert await rig.ours.ended() is ExitCode.OK
        assert await rig.theirs.exit_code() == 0


@cases("source-V3", "destination-V3")
async def test_a_stop_on_our_side_ends_the_streams_on_theirs(
    service: ServiceProcess, tmp_path: Path, role: Side, form: Form
):
    async with (
        connected(service, tmp_path, role, form, echo) as rig,
        client(rig.ports[0]) as streams,
    ):
        await check_echo(streams, b"open")
        assert await rig.ours.stop() is ExitCode.OK
        await check_closed(streams)
        assert rig.theirs.running


@pytest.mark.parametrize("role", Side, ids=lambda side: side.value)
async def test_the_place_of_one_that_is_waited_for(
    service: ServiceProcess, tmp_path: Path, role: Side
):
    """What has waited is reset, and the reference is sent nothing that it does not know."""
    token = Secret("reference-" + role.value.ljust(32, "0"))
    async with AsyncExitStack() as stack:
        tunnel = stack.enter_context(tunnel_of(service, "SSH"))
        where = await stack.enter_async_context(application(mirror))
        settings = {
            Side.SOURCE: tunnel.settings(Side.SOURCE),
            Side.DESTINATION: tunnel.settings(Side.DESTINATION, services={"SSH": where}),
        }
        kept = await stack.enter_async_context(running_proxy(settings[role.other]))
        async with running_proxy(
            replace(settings[role], client_token=token, connect_retry_count=0)
        ) as leaving:
            proxies = {role: leaving, role.other: kept}
            ports = await proxies[Side.SOURCE].ready()
            await proxies[Side.DESTINATION].ready()
            await exchange(ports["SSH"], 100_000)
            waiting = await stack.enter_async_context(client(ports["SSH"]))
            waiting[1].write(b"half a head")
            await kept.seen(ConnectionOpened, 2)
            services: ServiceAddresses = {"SSH": where}
            if role is Side.SOURCE:
                port = free_port()
                services, ports = (
                    {"SSH": TCPAddress("", port)},
                    {"SSH": TCPAddress("127.0.0.1", port)},
                )
            options = ("-i", token.reveal(), *(("-b", "127.0.0.1") if role is Side.SOURCE else ()))
            theirs = stack.enter_context(reference(tmp_path, tunnel, role, services, *options))
            with pytest.raises(LinkError, match="replaced"):
                await leaving.ended()
        assert "cannot resume" in (await kept.seen(ConnectionCut)).reason
        await check_closed(waiting)
        if role is Side.SOURCE:
            await theirs.said(f"Listening for new connection on port {ports['SSH'].port}")
        for turn in range(2):
            await exchange(ports["SSH"], 300_000, seed=turn)
        assert theirs.running
