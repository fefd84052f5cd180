"""Services of a device at local addresses: a real service, a device in this process."""

import asyncio
import io
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.network.applications import check_echo, echo
from support.network.applications import client as connection
from support.service.devices import device_of, service_client
from support.service.process import ServiceProcess
from support.waiting import HANG, until
from tailrace.aws import Client, TunnelState
from tailrace.common.addresses import TCPAddress
from tailrace.errors import ConfigurationError, ControlError, ListenError, TailraceError
from tailrace.library import Tunnel
from tailrace.operator import connect as module
from tailrace.operator.connect import Connecting, ServiceWish, browsable, check_ports
from tailrace.operator.connect_view import Picture
from tailrace.operator.failures import Terminated
from tailrace.operator.processes import read_processes
from tailrace.operator.state import Phase
from tailrace.operator.wish import WantedTunnel


@dataclass
class Watcher:
    """A view that remembers what it was shown."""

    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    closed: int = 0

    def show(self, picture: Picture) -> None:
        assert not self.closed
        self.pictures.append(picture)

    def note(self, label: str, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        self.closed += 1


class Bench:
    """A command that can be started, and what it shows."""

    def __init__(self, client: Client, directory: Path) -> None:
        self.client = client
        self.directory = directory
        self.view = Watcher()
        self.out = io.StringIO()

    def start(
        self, thing: str, *services: str, browse: bool = False, **wanted: object
    ) -> asyncio.Task[None]:
        wishes = [ServiceWish(each) for each in services]
        self.connecting = Connecting(
            thing, wishes, "127.0.0.1", view=self.view, out=self.out, browse=browse
        )
        tunnel = WantedTunnel(thing, services or ("SSH",), self.directory, **wanted)
        entering = self.connecting.opening.tunnel(self.client, tunnel)
        return asyncio.get_running_loop().create_task(self.connecting.run(entering))

    async def addresses(self, running: asyncio.Task[None], count: int) -> dict[str, TCPAddress]:
        """Return service -> address, once they are printed."""
        await until(lambda: running.done() or self.out.getvalue().count("\n") == count)
        if running.done():
            running.result()
        found = {}
        for line in self.out.getvalue().splitlines():
            service, _, address = line.partition(" ")
            host, _, port = address.rpartition(":")
            found[service] = TCPAddress(host, int(port))
        return found

    async def states(self, thing: str) -> list[TunnelState]:
        return [each.state async for each in self.client.list(thing=thing)]


@pytest.fixture
async def bench(
    service: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", service.endpoints.data_endpoint)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(module, "_TICK", 0.01)
    async with service_client(service) as client:
        yield Bench(client, tmp_path / "opened")


async def test_from_opening_to_closing(
    service: ServiceProcess, bench: Bench, tmp_path: Path
) -> None:
    async with device_of(service, bench.client, "connect-used", "SSH", "WEB"):
        running = bench.start("connect-used", "SSH", "WEB")
        found = await bench.addresses(running, 2)
        async with connection(found["SSH"]) as streams:
            await check_echo(streams, b"hello")
            await until(lambda: bench.view.pictures[-1].traffic["SSH"].is_open == 1)
            await until(lambda: bench.view.pictures[-1].traffic["SSH"].received == 5)
        await until(lambda: bench.view.pictures[-1].traffic["SSH"].is_open == 0)
        # The event that it has ended comes in a turn of its own.
        await until(lambda: bench.view.pictures[-1].traffic["SSH"].sent == 5)
        picture = bench.view.pictures[-1]
        assert picture.traffic["WEB"].opened == 0
        assert [place.url != "" for place in picture.places] == [False, True]
        assert picture.state.phase is Phase.READY
        (told,) = await read_processes([tmp_path / "tailrace"])
        assert (told.kind, told.problem) == ("connect", "")
        assert told.document is not None
        assert told.document["tunnels"][0]["services"] == {"SSH": 0, "WEB": 0}
        signal.raise_signal(signal.SIGTERM)
        await running
    assert await bench.states("connect-used") == [TunnelState.CLOSED]
    assert bench.view.closed == 1
    assert bench.view.pictures[-1].outcome.endswith("… closed")
    assert Phase.CLOSING in {each.state.phase for each in bench.view.pictures}
    assert list(bench.directory.iterdir()) == []


async def test_a_kept_tunnel_that_somebody_closes(service: ServiceProcess, bench: Bench) -> None:
    async with device_of(service, bench.client, "connect-kept", "SSH"):
        running = bench.start("connect-kept", "SSH", keep=True)
        await bench.addresses(running, 1)
        signal.raise_signal(signal.SIGINT)
        await running
        assert bench.view.pictures[-1].outcome.endswith("… stays open")
        (tunnel,) = [each async for each in bench.client.list(thing="connect-kept")]
        assert tunnel.state is TunnelState.OPEN

        again = Bench(bench.client, bench.directory)
        running = again.start("connect-kept", tunnel_id=tunnel.tunnel_id)
        await again.addresses(running, 1)
        await bench.client.close(tunnel.tunnel_id)
        await running
    assert again.view.pictures[-1].outcome == "the tunnel was closed, or its lifetime is over"


async def test_a_signal_while_the_device_is_waited_for(bench: Bench) -> None:
    running = bench.start("connect-never", "SSH")
    await until(lambda: any(p.state.phase is Phase.WAITING for p in bench.view.pictures))
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(Terminated) as caught:
        await running
    assert caught.value.number == signal.SIGINT
    assert await bench.states("connect-never") == [TunnelState.CLOSED]
    assert bench.out.getvalue() == ""
    assert bench.view.closed == 1


async def test_a_tunnel_that_cannot_be_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(tunnel_id: str, *, delete: bool = False) -> None:
        raise ControlError("", "down")

    running = bench.start("unclosed", "SSH")
    await until(lambda: any(p.state.phase is Phase.WAITING for p in bench.view.pictures))
    monkeypatch.setattr(bench.client, "close", fails)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(TailraceError, match="may still be open: down; the next command tries"):
        await running
    monkeypatch.undo()
    assert any("may still be open" in note for note in bench.view.notes)
    (left,) = bench.directory.iterdir()
    assert left.suffix == ".tunnel"
    assert await bench.states("unclosed") == [TunnelState.OPEN]


async def test_a_second_signal_does_not_wait(
    service: ServiceProcess, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, may_close = asyncio.Event(), asyncio.Event()
    close = bench.client.close

    async def slow(tunnel_id: str, *, delete: bool = False) -> None:
        closing.set()
        await may_close.wait()
        await close(tunnel_id)

    monkeypatch.setattr(bench.client, "close", slow)
    async with device_of(service, bench.client, "connect-twice", "SSH"):
        running = bench.start("connect-twice", "SSH")
        await bench.addresses(running, 1)
        signal.raise_signal(signal.SIGTERM)
        await closing.wait()
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is not None
        await asyncio.sleep(0)
        may_close.set()
        await running
    assert await bench.states("connect-twice") == [TunnelState.CLOSED]


async def test_who_runs_it_may_cancel_it(bench: Bench) -> None:
    running = bench.start("connect-cancelled", "SSH")
    await until(lambda: any(p.state.phase is Phase.WAITING for p in bench.view.pictures))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await bench.states("connect-cancelled") == [TunnelState.CLOSED]


async def test_services_that_the_tunnel_does_not_have(
    service: ServiceProcess, bench: Bench
) -> None:
    opened = await bench.client.open(services=["SSH", "WEB"])
    place = service.endpoints.data_endpoint
    services = {"SSH": echo, "WEB": echo}
    async with Tunnel.destination(opened.destination_token, services, endpoint=place):
        for wish, said in (
            ("shs", "the tunnel has no service 'shs'; did you mean SSH? It has SSH, WEB"),
            ("PLC-99", "the tunnel has no service 'PLC-99'. It has SSH, WEB"),
        ):
            running = bench.start("x", wish, tunnel_id=opened.tunnel_id)
            with pytest.raises(ConfigurationError) as caught:
                await running
            assert str(caught.value) == said
            bench.view = Watcher()
    await bench.client.close(opened.tunnel_id)


async def test_a_source_token(service: ServiceProcess, bench: Bench) -> None:
    opened = await bench.client.open(services=["SSH", "WEB"])
    place = service.endpoints.data_endpoint
    services = {"SSH": echo, "WEB": echo}
    async with Tunnel.destination(opened.destination_token, services, endpoint=place):
        connecting = Connecting("token", [], "127.0.0.1", view=bench.view, out=bench.out)
        tunnel = Tunnel.source(opened.source_token)
        entering = connecting.opening.tunnel_of_token(tunnel, HANG)
        running = asyncio.get_running_loop().create_task(connecting.run(entering))
        found = await bench.addresses(running, 2)
        async with connection(found["WEB"]) as streams:
            await check_echo(streams, b"hello")
        signal.raise_signal(signal.SIGTERM)
        await running
    assert bench.view.pictures[-1].outcome == "ended; the tunnel stays open"
    await bench.client.close(opened.tunnel_id)


@pytest.mark.parametrize("works", [True, False])
async def test_the_browser(
    service: ServiceProcess,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    works: bool,
) -> None:
    seen = tmp_path / "seen"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > {seen}\n{"exit 0" if works else "exit 1"}\n')
    script.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(script))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    thing = f"browsed-{works}"
    async with device_of(service, bench.client, thing, "CAMERA"):
        running = bench.start(thing, "CAMERA", browse=True)
        address = (await bench.addresses(running, 1))["CAMERA"]
        url = f"http://127.0.0.1:{address.port}/"
        await until(lambda: seen.exists() and seen.read_text())
        assert seen.read_text() == f"{url}\n"
        if not works:
            await until(lambda: f"no browser could be started; open {url}" in bench.view.notes)
        signal.raise_signal(signal.SIGTERM)
        await running


@pytest.mark.parametrize(
    ("service_id", "scheme"),
    [("HTTP", "http"), ("http-8080", "http"), ("HTTPS2", "https"), ("WebUI", "http"), ("SSH", "")],
)
def test_names_for_browsers(service_id: str, scheme: str) -> None:
    assert browsable(service_id) == scheme


def test_ports_that_are_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            check_ports("127.0.0.1", [ServiceWish("A"), ServiceWish("SSH", port)])
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port} for SSH: Address already in use; "
        f"choose another port, as SSH={port + 1}"
    )
    with pytest.raises(ListenError, match=r"cannot listen on 192.0.2.1:0 for SSH: Cannot assign"):
        check_ports("192.0.2.1", [ServiceWish("SSH")])
    with pytest.raises(ListenError, match=r"cannot listen on no.such.host.invalid:0"):
        check_ports("no.such.host.invalid", [ServiceWish("SSH")])
    check_ports("127.0.0.1", [ServiceWish("SSH", port)])
