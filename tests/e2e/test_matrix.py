"""Bytes through whole tunnels: pairs of event loops, link back ends and dialects.

Both proxies run in the test's own loop, so that the leak checks see them; the service is
a process. The last tests run the installed command.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
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
    noise,
)
from support.network.sockets import reset_streams
from support.service import MessageClient, ServiceProcess, dial, service_process
from support.tunnel import both_processes, both_proxies, running_proxy, tunnel_of, tunnel_process
from support.waiting import HANG
from tailrace.common.addresses import LocalAddress, TCPAddress, UnixAddress
from tailrace.localproxy.settings import Backend, PeerVersion
from tailrace.wire import SUBPROTOCOL_V1, Message, MessageType, Side

SIZES = (1, 2, 4096, 64_511, 64_512, 64_513, 1_000_000, 8 * 1024 * 1024)
"""Bytes; around the largest payload of one message, and far above it."""


@dataclass(frozen=True)
class Form:
    """What the messages of a tunnel carry."""

    services: tuple[str, ...]
    version: PeerVersion


FORMS = {
    "V3": Form(("SSH", "HTTP:8080"), PeerVersion.AUTO),
    "V3-unnamed": Form((), PeerVersion.AUTO),
    "V2": Form(("SSH", "HTTP:8080"), PeerVersion.V2),
    "V1": Form(("SSH",), PeerVersion.V1),
    "V1-unnamed": Form((), PeerVersion.V1),
}
LINKS = {
    "picows": (Backend.PICOWS, Backend.PICOWS),
    "websockets": (Backend.WEBSOCKETS, Backend.WEBSOCKETS),
}
Links = tuple[Backend, Backend]


def forms(*names: str) -> pytest.MarkDecorator:
    """Run a test with tunnels of these forms."""
    return pytest.mark.parametrize("form", [FORMS[name] for name in names], ids=names)


each_dialect = forms("V3", "V3-unnamed", "V2", "V1")
each_link = pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
each_backend = pytest.mark.parametrize(
    "backend", [Backend.PICOWS, Backend.WEBSOCKETS], ids=lambda backend: backend.value
)


@asynccontextmanager
async def connected(
    service: ServiceProcess, links: Links, form: Form, handler: Handler
) -> AsyncIterator[list[LocalAddress]]:
    """A tunnel to applications, the same one for each service; gives where the source listens."""
    names = form.services or ("",)
    async with AsyncExitStack() as stack:
        tunnel = stack.enter_context(tunnel_of(service, *form.services))
        addresses = {name: await stack.enter_async_context(application(handler)) for name in names}
        source = tunnel.settings(Side.SOURCE, backend=links[0], peer_version=form.version)
        destination = tunnel.settings(Side.DESTINATION, backend=links[1], services=addresses)
        ends = await stack.enter_async_context(both_proxies(source, destination))
        yield [ends.listening[name] for name in names]


@pytest.mark.pairwise
@each_link
@forms(*FORMS)
async def test_payloads_of_every_size(
    service: ServiceProcess, loop_kind: str, links: Links, form: Form
):
    """One connection after the other, on every service in turn."""
    async with connected(service, links, form, mirror) as ports:
        for turn, size in enumerate(SIZES):
            await exchange(ports[turn % len(ports)], size, seed=turn)


async def test_ends_with_different_back_ends(service: ServiceProcess, loop_kind: str):
    mixed = (Backend.PICOWS, Backend.WEBSOCKETS)
    async with connected(service, mixed, FORMS["V3"], mirror) as ports:
        for size in SIZES:
            await exchange(ports[0], size)


@pytest.mark.pairwise
@each_link
@forms("V3", "V3-unnamed")
async def test_many_connections_at_once(
    service: ServiceProcess, loop_kind: str, links: Links, form: Form
):
    async with (
        connected(service, links, form, mirror) as ports,
        asyncio.TaskGroup() as group,
    ):
        for number in range(12):
            size = SIZES[number % len(SIZES)] // 4 + 1
            group.create_task(exchange(ports[number % len(ports)], size, seed=number))


@pytest.mark.pairwise
@each_link
@forms("V2", "V1")
async def test_a_second_client_of_an_old_peer_waits_for_the_first(
    service: ServiceProcess, loop_kind: str, links: Links, form: Form
):
    async with (
        connected(service, links, form, echo) as ports,
        client(ports[0]) as first,
        client(ports[0]) as second,
    ):
        await check_echo(first, b"first")
        second[1].write(b"second")
        await check_echo(first, b"first again")
        first[1].close()
        async with asyncio.timeout(HANG):
            assert await second[0].readexactly(6) == b"second"


@pytest.mark.pairwise
@each_link
@each_dialect
async def test_a_server_that_speaks_first(
    service: ServiceProcess, loop_kind: str, links: Links, form: Form
):
    banner = b"SSH-2.0-tailrace\r\n"

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(banner)
        await echo(reader, writer)

    async with connected(service, links, form, greet) as ports:
        for _ in range(2):
            async with asyncio.timeout(HANG), client(ports[0]) as streams:
                assert await streams[0].readexactly(len(banner)) == banner
                await check_echo(streams, b"version of the client")


@pytest.mark.pairwise
@each_link
@each_dialect
async def test_a_client_that_half_closes_gets_its_late_answer(
    service: ServiceProcess, loop_kind: str, links: Links, form: Form
):
    """As ``printf request | nc -N`` does; the end comes right behind the last byte."""
    answer = noise(2_000_000)

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n")
        await asyncio.sleep(0.1)
        writer.write(answer)

    async with (
        connected(service, links, form, answer_late) as ports,
        asyncio.timeout(HANG),
        client(ports[0]) as (reader, writer),
    ):
        writer.write(b"GET / HTTP/1.0\n")
        writer.write_eof()
        assert await reader.read(-1) == answer


@pytest.mark.pairwise
@each_link
@each_dialect
async def test_a_reset_by_the_client_reaches_the_application(
    service: ServiceProcess, loop_kind: str, links: Links, form: Form
):
    ended = asyncio.Event()

    async def until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await echo(reader, writer)
        finally:
            ended.set()

    async with connected(service, links, form, until_the_end) as ports:
        async with client(ports[0]) as streams:
            await check_echo(streams, b"here")
            reset_streams(streams)
            async with asyncio.timeout(HANG):
                await ended.wait()
        async with client(ports[0]) as streams:
            await check_echo(streams, b"and on it goes")


async def test_an_old_peer_is_recognised(service: ServiceProcess, loop_kind: str):
    """A source without ``-y`` learns from the first answer; nothing is lost meanwhile."""
    with tunnel_of(service, "SSH") as tunnel:
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            port = (await source.ready())["SSH"]
            token = tunnel.tokens[Side.DESTINATION].reveal()
            async with dial(
                tunnel.endpoints,
                "destination",
                token,
                subprotocols=[SUBPROTOCOL_V1],
                expect_ids=None,
            ) as peer:
                for stream_id in (1, 2):
                    await serve_v1_stream(peer, port, stream_id)


async def serve_v1_stream(peer: MessageClient, port: LocalAddress, stream_id: int) -> None:
    """Answer one connection the way a V1 destination does: ids of streams are all it knows."""
    async with asyncio.timeout(HANG), client(port) as (reader, writer):
        writer.write(b"question")
        start, question = await peer.recv(), await peer.recv()
        assert (start.type, start.stream_id) == (MessageType.STREAM_START, stream_id)
        assert question.payload == b"question"
        for word in (b"first ", b"second "):
            await peer.send(Message(MessageType.DATA, stream_id, payload=word))
        assert await reader.readexactly(13) == b"first second "
        writer.write(b"thanks")
        thanks = await peer.recv()
        assert (thanks.payload, thanks.connection_id) == (b"thanks", 0)
        await peer.send(Message(MessageType.STREAM_RESET, stream_id))
        assert await reader.read() == b""


@each_backend
async def test_ipv6_on_both_sides(service: ServiceProcess, loop_kind: str, backend: Backend):
    async with AsyncExitStack() as stack:
        tunnel = stack.enter_context(tunnel_of(service, "SSH"))
        where = await stack.enter_async_context(application(mirror, TCPAddress("::1", 0)))
        ends = await stack.enter_async_context(
            both_proxies(
                tunnel.settings(Side.SOURCE, bind_address="::1", backend=backend),
                tunnel.settings(Side.DESTINATION, services={"SSH": where}, backend=backend),
            )
        )
        assert ends.listening["SSH"].host == "::1"
        await exchange(ends.listening["SSH"], 300_000)


@each_backend
async def test_unix_sockets_on_both_sides(
    service: ServiceProcess, loop_kind: str, backend: Backend, tmp_path: Path
):
    near, far = UnixAddress(str(tmp_path / "near")), UnixAddress(str(tmp_path / "far"))
    async with AsyncExitStack() as stack:
        tunnel = stack.enter_context(tunnel_of(service, "SSH"))
        await stack.enter_async_context(application(mirror, far))
        ends = await stack.enter_async_context(
            both_proxies(
                tunnel.settings(Side.SOURCE, services={"SSH": near}, backend=backend),
                tunnel.settings(Side.DESTINATION, services={"SSH": far}, backend=backend),
            )
        )
        assert ends.listening == {"SSH": near}
        await exchange(near, 300_000)
    assert "near" not in os.listdir(tmp_path)


@pytest.mark.parametrize("link", ["picows", "websockets"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_command(service: ServiceProcess, tmp_path: Path, loop: str, link: str):
    """Both ends as processes of the installed command."""
    options = ("--loop", loop, "--link", link)
    with tunnel_of(service, "A", "B") as tunnel:
        async with application(mirror) as first, application(echo) as second:
            applications = {"A": first, "B": second}
            async with both_processes(tmp_path, tunnel, applications, *options) as (
                source,
                destination,
                ports,
            ):
                await exchange(ports["A"], 1_000_000)
                async with client(ports["B"]) as streams:
                    await check_echo(streams, b"through two processes")
                    source.terminate()
                    await check_closed(streams)
                destination.terminate()
                assert await source.exit_code() == await destination.exit_code() == 0


@pytest.mark.parametrize("far", ["[::1]", "unix"])
async def test_the_command_with_other_addresses(service: ServiceProcess, tmp_path: Path, far: str):
    near = UnixAddress(str(tmp_path / "near"))
    wanted = UnixAddress(str(tmp_path / "far")) if far == "unix" else TCPAddress("::1", 0)
    with tunnel_of(service) as tunnel:
        async with application(mirror, wanted) as where:
            with (
                tunnel_process(tmp_path, tunnel, Side.DESTINATION, {"": where}) as destination,
                tunnel_process(tmp_path, tunnel, Side.SOURCE, {"": near}) as source,
            ):
                await destination.ready()
                assert await source.ready() == {"": near}
                await exchange(near, 100_000)


async def test_a_service_on_ipv6(tmp_path: Path):
    with service_process(tmp_path, host="[::1]") as service, tunnel_of(service, "SSH") as tunnel:
        assert tunnel.endpoints.data_endpoint.startswith("[::1]:")
        async with (
            application(mirror) as where,
            both_proxies(
                tunnel.settings(Side.SOURCE),
                tunnel.settings(Side.DESTINATION, services={"SSH": where}),
            ) as ends,
        ):
            await exchange(ends.listening["SSH"], 100_000)
