"""A cut never looks like an end: what had arrived is delivered, then the connection is reset.

docs/about/faults.md tells what is known of whom; here is what applications and clients see.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from support.network.applications import application, noise
from support.network.ports import free_port
from support.network.sockets import Streams, reset_streams
from support.service import ServiceProcess, service_process
from support.tunnel import Ends, Tunnel, both_proxies, disguise, running_proxy, tunnel_of
from support.waiting import HANG, until
from tailrace.common.addresses import LocalAddress, TCPAddress
from tailrace.localproxy.events import ConnectionCut, ConnectionRefused, TunnelPaused
from tailrace.localproxy.settings import PeerVersion
from tailrace.session import EndCause
from tailrace.wire import Side

SIZE = 3_000_000
CONTENT = noise(SIZE)
END, RESET = "end of file", "reset"

Cut = Callable[[Ends, Tunnel], Awaitable[object] | None]


class Client:
    """A plain socket: asyncio's streams forget what they have when a reset comes."""

    def __init__(self, at: LocalAddress) -> None:
        assert isinstance(at, TCPAddress)
        self.sock = socket.socket()
        # Small: what is delivered has to be taken bit by bit.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._at = (at.host, at.port)
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Client:
        # At once, whoever accepts it; asyncio could find a reset before it has connected.
        self.sock.connect(self._at)
        self.sock.setblocking(False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(HANG):
            return await self._loop.sock_recv(self.sock, size)

    async def rest(self) -> tuple[bytes, str]:
        """Return what comes before the end, and which one it is."""
        received = bytearray()
        try:
            while data := await self.read(65_536):
                received += data
        except ConnectionResetError:
            return bytes(received), RESET
        return bytes(received), END


class Holding:
    """An application that sends without end in sight, and notes how its connections ended."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.endings: list[str] = []
        self.streams: list[Streams] = []
        self._content = content

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams.append((reader, writer))
        writer.write(self._content)
        try:
            await writer.drain()
            while await reader.read(65_536):
                pass
        except ConnectionError:
            self.endings.append(RESET)
        else:
            self.endings.append(END)


@asynccontextmanager
async def download(
    service: ServiceProcess, *, resume_timeout: float = 0.0, **changes: object
) -> AsyncIterator[tuple[Client, Holding, Ends, Tunnel]]:
    """A download that is under way, and that its client does not read.

    It does not outlive its link, unless that is asked for.
    """
    waits = {"resume_timeout": resume_timeout}
    handler = Holding()
    with tunnel_of(service, "SSH") as tunnel:
        async with application(handler) as where:
            near = tunnel.settings(Side.SOURCE, **waits, **changes)
            far = tunnel.settings(Side.DESTINATION, services={"SSH": where}, **waits)
            async with both_proxies(near, far) as ends, Client(ends.listening["SSH"]) as client:
                await client.read(1)
                yield client, handler, ends, tunnel


async def close_tunnel(ends: Ends, tunnel: Tunnel) -> None:
    await asyncio.get_running_loop().run_in_executor(None, tunnel.close)


def stop(side: Side) -> Cut:
    return lambda ends, _: getattr(ends, side.value).stop()


def drop(side: Side) -> Cut:
    return lambda ends, _: getattr(ends, side.value).drop_link()


async def applied(cut: Cut, ends: Ends, tunnel: Tunnel) -> None:
    if (done := cut(ends, tunnel)) is not None:
        await done


CUTS: dict[str, tuple[Cut, str]] = {
    "link of the source lost": (drop(Side.SOURCE), "the link to the service was lost"),
    "link of the destination lost": (drop(Side.DESTINATION), "the destination has left"),
    "destination stopped": (stop(Side.DESTINATION), "the destination has been stopped"),
    "tunnel closed": (close_tunnel, "the tunnel has ended"),
}


@pytest.mark.parametrize("name", CUTS)
async def test_what_had_arrived_is_delivered_and_then_comes_a_reset(
    service: ServiceProcess, name: str
):
    cut, reason = CUTS[name]
    async with download(service) as (client, handler, ends, tunnel):
        done = asyncio.get_running_loop().create_task(applied(cut, ends, tunnel))
        event = await ends.source.seen(ConnectionCut)
        # Nothing is read before the cut is known: the reset must not overtake the bytes.
        received, ending = await client.rest()
        assert ending == RESET
        assert CONTENT[1:].startswith(received)
        assert len(received) + 1 == event.received
        assert event.reason == reason
        await until(lambda: handler.endings == [RESET], "a reset at the application")
        await done


async def test_a_stopped_source_delivers_first_too(service: ServiceProcess):
    async with download(service) as (client, handler, ends, _):
        stopping = asyncio.get_running_loop().create_task(ends.source.stop())
        received, ending = await client.rest()
        assert ending == RESET
        assert CONTENT[1:].startswith(received)
        await stopping
        await until(lambda: handler.endings == [RESET], "a reset at the application")
        cut = await ends.destination.seen(ConnectionCut)
        assert cut.reason == "the source has been stopped"


async def test_a_killed_service_is_a_cut_at_both_ends(
    service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory
):
    with service_process(tmp_path_factory.mktemp("killed")) as killed:
        async with download(killed) as (client, handler, _, _):
            killed.process.kill()
            received, ending = await client.rest()
            assert ending == RESET
            assert CONTENT[1:].startswith(received)
            await until(lambda: handler.endings == [RESET], "a reset at the application")


async def test_a_link_that_does_not_come_back_in_time_is_a_cut_at_both_ends(
    service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory
):
    with service_process(tmp_path_factory.mktemp("killed")) as killed:
        async with download(killed, resume_timeout=0.5) as (client, handler, ends, _):
            killed.process.kill()
            event = await ends.source.seen(ConnectionCut)
            assert event.reason == EndCause.NOT_RESUMED.value
            received, ending = await client.rest()
            assert ending == RESET
            assert CONTENT[1:].startswith(received)
            assert len(received) + 1 == event.received
            await until(lambda: handler.endings == [RESET], "a reset at the application")
            for end in (ends.source, ends.destination):
                assert end.all(TunnelPaused) == [TunnelPaused("link lost", 1, 0.5)]


async def test_an_end_in_order_stays_one(service: ServiceProcess):
    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONTENT)
        await writer.drain()

    with tunnel_of(service, "SSH") as tunnel:
        async with application(send) as where:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": where})
            async with (
                both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
                Client(ends.listening["SSH"]) as client,
            ):
                assert await client.rest() == (CONTENT, END)
                assert ends.source.all(ConnectionCut) == []


async def test_an_application_that_resets_resets_its_client(service: ServiceProcess):
    async with download(service) as (client, handler, ends, _):
        await until(lambda: handler.streams, "the application")
        reset_streams(handler.streams[0])
        _, ending = await client.rest()
        assert ending == RESET
        cut = await ends.source.seen(ConnectionCut)
        assert cut.reason == "the application reset the connection"


async def test_a_client_that_resets_resets_its_application(service: ServiceProcess):
    async with download(service) as (client, handler, ends, _):
        client.sock.close()  # with bytes that it has not read
        await until(lambda: handler.endings == [RESET], "a reset at the application")
        cut = await ends.destination.seen(ConnectionCut)
        assert cut.reason == "the client reset the connection"


async def test_without_a_destination_the_client_is_reset(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            async with Client((await source.ready())["SSH"]) as client:
                assert await client.rest() == (b"", RESET)
            cut = await source.seen(ConnectionCut)
            assert (cut.received, cut.reason) == (0, "no destination is connected")


async def test_an_application_that_cannot_be_reached(service: ServiceProcess):
    """The first connection of a stream and another one are refused in different ways."""
    with tunnel_of(service, "SSH") as tunnel:
        port = free_port()
        far = tunnel.settings(Side.DESTINATION, services={"SSH": TCPAddress("", port)})
        async with both_proxies(tunnel.settings(Side.SOURCE), far) as ends:
            reason = f"the destination could not reach 127.0.0.1:{port} (refused)"
            async with Client(ends.listening["SSH"]) as client:
                assert await client.rest() == (b"", RESET)
            assert (await ends.source.seen(ConnectionCut)).reason == reason
            async with application(Holding(b"here"), TCPAddress("127.0.0.1", port)):
                held = await Client(ends.listening["SSH"]).__aenter__()
                assert await held.read(4) == b"here"
            # Its connection has ended with the application, its stream has not.
            with contextlib.closing(held.sock):
                async with Client(ends.listening["SSH"]) as client:
                    assert await client.rest() == (b"", RESET)
            assert (await ends.source.seen(ConnectionCut, 2)).reason == reason
            refused = await ends.destination.seen(ConnectionRefused, 2)
            assert refused.reason == (
                f"Could not connect to destination 127.0.0.1:{port} -- Connection refused"
            )


# -- what is known of others ----------------------------------------------------------------------


@pytest.mark.parametrize("version", [PeerVersion.V1, PeerVersion.V2])
async def test_the_only_end_of_old_peers_stays_an_end(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch, version: PeerVersion
):
    """Whatever they mean by it: it is the end of a file, mostly."""
    disguise(monkeypatch, Side.SOURCE, Side.DESTINATION)
    async with download(service, peer_version=version) as (client, _, ends, _):
        ends.destination.drop_link()
        received, ending = await client.rest()
        assert ending == END
        assert CONTENT[1:].startswith(received)
        ends.source.drop_link()


@pytest.mark.parametrize("version", [PeerVersion.V1, PeerVersion.V2])
async def test_the_service_tells_that_an_old_peer_has_left(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch, version: PeerVersion
):
    disguise(monkeypatch, Side.DESTINATION)
    async with download(service, peer_version=version) as (client, _, ends, _):
        ends.destination.drop_link()
        _, ending = await client.rest()
        assert ending == RESET
        assert (await ends.source.seen(ConnectionCut)).reason == "the destination has left"


async def test_through_other_ends_a_lost_stream_is_a_cut(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
):
    """V3 has another message for ends, so that a reset of the stream is none."""
    disguise(monkeypatch, Side.SOURCE, Side.DESTINATION)
    async with download(service) as (client, _, ends, _):
        ends.destination.drop_link()
        _, ending = await client.rest()
        assert ending == RESET
        cut = await ends.source.seen(ConnectionCut)
        assert cut.reason == "the peer or the service reset the stream"


async def test_who_is_not_told_names_what_it_may_be(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
):
    disguise(monkeypatch, Side.SOURCE)
    with tunnel_of(service, "SSH") as tunnel:
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            async with Client((await source.ready())["SSH"]) as client:
                assert await client.rest() == (b"", RESET)
            cut = await source.seen(ConnectionCut)
            assert cut.reason == (
                "no destination is connected, or it could not reach its application"
            )
