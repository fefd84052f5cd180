"""Whole tunnels for tests: a service process, local proxies, small TCP applications.

Everything is started by a context manager and is gone when its block ends: processes
are waited for, sockets closed, tasks done. The system picks all ports. When a block ends
with an error, the logs of its processes are printed, and pytest shows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from support.process import HANG, POLL, Process, clean_environment, installed, process, until
from tailrace.aws import ControlClient, Credentials
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.addresses import LocalAddress, ServiceMap, TCPAddress, UnixAddress
from tailrace.common.secret import Secret
from tailrace.link.endpoint import LinkTarget
from tailrace.link.http.upgrade import request_headers
from tailrace.localproxy.events import Connected, Listening, ProxyEvent, ServicesMapped
from tailrace.localproxy.proxy import LocalProxy
from tailrace.localproxy.settings import ProxySettings
from tailrace.service.config import Endpoints, parse_address
from tailrace.wire import Side

__all__ = [
    "HANG",
    "Ends",
    "Handler",
    "Process",
    "ProxyProcess",
    "RunningProxy",
    "ServiceProcess",
    "Streams",
    "Tunnel",
    "application",
    "arguments_for",
    "both_processes",
    "both_proxies",
    "check_closed",
    "check_echo",
    "clean_environment",
    "client",
    "control_client",
    "disguise",
    "echo",
    "exchange",
    "hang_up",
    "installed",
    "mirror",
    "noise",
    "open_tunnel",
    "process",
    "proxy_process",
    "read_ready_file",
    "read_to_the_end",
    "reset",
    "running_proxy",
    "service_process",
    "tunnel_of",
    "tunnel_process",
    "until",
    "unused_port",
]

ANY_PORT = TCPAddress("127.0.0.1", 0)

_STREAM_LIMIT = 1024 * 1024

E = TypeVar("E", bound=ProxyEvent)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


# -- the service -----------------------------------------------------------------------------


class ServiceProcess:
    """A running ``tailrace serve``; after :meth:`restart` it has the same ports."""

    def __init__(self, directory: Path, options: Sequence[str], patience: float = HANG) -> None:
        self._directory = directory
        self._options = options
        self._patience = patience
        self._ready = directory / "service.json"
        self._stack = contextlib.ExitStack()
        self.process: Process
        self.endpoints: Endpoints
        self.control: ControlClient

    def start(self, api_port: int = 0, data_port: int = 0, host: str = "127.0.0.1") -> None:
        """Start, and wait until the service accepts requests."""
        command = [
            *(installed("tailrace"), "serve"),
            *("--state-dir", str(self._directory / "state"), "--ready-file", str(self._ready)),
            *("--api-listen", f"{host}:{api_port}", "--data-listen", f"{host}:{data_port}"),
            *self._options,
        ]
        self.process = self._stack.enter_context(
            process("service", command, self._directory, clean_environment())
        )
        deadline = time.monotonic() + self._patience
        while not self._ready.exists():
            assert self.process.running, self.process.log
            assert time.monotonic() < deadline, self.process.log
            time.sleep(POLL)
        self.endpoints = Endpoints.read(self._ready)
        self.control = control_client(self.endpoints)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End, by default in order; return the exit status."""
        self.process.signal(number)
        status = self.process.wait()
        self._stack.close()
        return status

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End the service with a signal and start it again at the same addresses."""
        assert self.stop(number) == (-number if number == signal.SIGKILL else ExitCode.OK)
        # Only who is killed leaves it behind.
        assert self._ready.exists() is (number == signal.SIGKILL)
        self._ready.unlink(missing_ok=True)
        data = parse_address(self.endpoints.data_endpoint, "data")
        api = parse_address(self.endpoints.api_endpoint.removeprefix("https://"), "api")
        self.start(api.port, data.port, data.host)

    def close(self) -> None:
        """End in order if it still runs, and reap it in any case."""
        if self.process.running:
            self.stop()
        self._stack.close()


@contextmanager
def service_process(
    directory: Path, *options: str, host: str = "127.0.0.1"
) -> Iterator[ServiceProcess]:
    """A service in a process of its own."""
    service = ServiceProcess(directory, options)
    try:
        service.start(host=host)
        yield service
    finally:
        service.close()


def control_client(endpoints: Endpoints) -> ControlClient:
    """Return a client of a service's control API."""
    return ControlClient(
        endpoints.api_endpoint,
        endpoints.region,
        Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key)),
        Path(endpoints.ca_file),
    )


@dataclass(frozen=True)
class Tunnel:
    """An open tunnel."""

    endpoints: Endpoints
    control: ControlClient
    tunnel_id: str
    services: tuple[str, ...]
    tokens: Mapping[Side, Secret]

    def settings(self, side: Side, **changes: Any) -> ProxySettings:
        """Return the settings of a proxy in this process."""
        address = parse_address(self.endpoints.data_endpoint, "data")
        values: dict[str, Any] = {
            "side": side,
            "host": address.host,
            "port": address.port,
            "access_token": self.tokens[side],
            "capath": Path(self.endpoints.ca_dir),
            "bind_address": "127.0.0.1" if side is Side.SOURCE else "",
            "retry_delay": 0.1,
        }
        return ProxySettings(**(values | changes))

    def close(self) -> None:
        """Close the tunnel through the API, blocking."""
        self.control.call("CloseTunnel", {"tunnelId": self.tunnel_id})


def open_tunnel(endpoints: Endpoints, control: ControlClient, *services: str) -> Tunnel:
    """Open a tunnel through the API, blocking."""
    parameters = {"destinationConfig": {"services": list(services)}} if services else {}
    answer = control.call("OpenTunnel", parameters)
    return Tunnel(
        endpoints,
        control,
        answer["tunnelId"],
        services,
        {side: Secret(answer[f"{side.value}AccessToken"]) for side in Side},
    )


@contextmanager
def tunnel_of(service: ServiceProcess, *services: str) -> Iterator[Tunnel]:
    """An open tunnel; the log of the service is printed when the block fails."""
    seen = len(service.process.log)
    try:
        yield open_tunnel(service.endpoints, service.control, *services)
    except BaseException:
        print("--- service ---", service.process.log[seen:], sep="\n")
        raise


# -- local proxies as processes ----------------------------------------------------------------


class ProxyProcess(Process):
    """A running ``localproxy``."""

    def __init__(self, inner: Process, ready_file: Path) -> None:
        super().__init__(inner.name, inner._popen, inner._directory)
        self.ready_file = ready_file

    async def ready(self) -> dict[str, LocalAddress]:
        """Wait until the tunnel can be used; return service id -> local address."""
        await until(
            lambda: self.ready_file.exists() or not self.running, f"readiness of {self.name}"
        )
        assert self.running, self.log
        return read_ready_file(self.ready_file)


def read_ready_file(path: Path) -> dict[str, LocalAddress]:
    """Return the addresses in a proxy's ready file."""
    services = json.loads(path.read_text())["services"]
    return {
        service_id: UnixAddress(where["path"])
        if "path" in where
        else TCPAddress(where["host"], where["port"])
        for service_id, where in services.items()
    }


@contextmanager
def proxy_process(
    directory: Path, name: str, arguments: Sequence[str], token: Secret | None = None, **env: str
) -> Iterator[ProxyProcess]:
    """The command ``localproxy``; the token goes into its environment."""
    if token is not None:
        env["AWSIOT_TUNNEL_ACCESS_TOKEN"] = token.reveal()
    ready_file = directory / f"{name}.json"
    command = [installed("localproxy"), *arguments, "--ready-file", str(ready_file)]
    with process(name, command, directory, clean_environment(**env)) as started:
        yield ProxyProcess(started, ready_file)


def arguments_for(tunnel: Tunnel, side: Side, services: ServiceMap | None = None) -> list[str]:
    """Return the command line of a proxy of a tunnel, without its token."""
    arguments = ["-e", tunnel.endpoints.data_endpoint, "-c", tunnel.endpoints.ca_dir]
    if services is None:
        arguments += ["-m", side.value]
    else:
        entries = (f"{name}={where}" if name else str(where) for name, where in services.items())
        arguments += ["-s" if side is Side.SOURCE else "-d", ",".join(entries)]
    return arguments + (["-b", "127.0.0.1"] if side is Side.SOURCE else [])


@contextmanager
def tunnel_process(
    directory: Path,
    tunnel: Tunnel,
    side: Side,
    services: ServiceMap | None = None,
    *options: str,
    name: str = "",
) -> Iterator[ProxyProcess]:
    """The command ``localproxy`` at one end of a tunnel."""
    arguments = [*arguments_for(tunnel, side, services), *options]
    with proxy_process(directory, name or side.value, arguments, tunnel.tokens[side]) as started:
        yield started


@asynccontextmanager
async def both_processes(
    directory: Path, tunnel: Tunnel, applications: ServiceMap, *options: str
) -> AsyncIterator[tuple[ProxyProcess, ProxyProcess, dict[str, LocalAddress]]]:
    """Source and destination as processes, ready; and where the source listens."""
    with (
        tunnel_process(directory, tunnel, Side.DESTINATION, applications, *options) as destination,
        tunnel_process(directory, tunnel, Side.SOURCE, None, *options) as source,
    ):
        await destination.ready()
        yield source, destination, await source.ready()


def disguise(monkeypatch: pytest.MonkeyPatch, *sides: Side) -> None:
    """Let the proxies of this process that play ``modes`` look like somebody else's.

    The service then neither offers them what is our own nor passes it on to them.
    """

    def headers(target: LinkTarget, agent: str) -> list[tuple[str, str]]:
        hides = target.side in [side.value for side in sides]
        return request_headers(target, "localproxy" if hides else agent)

    for module in ("picows_link", "http.upgrade"):
        monkeypatch.setattr(f"tailrace.link.{module}.request_headers", headers)


# -- local proxies in this process -------------------------------------------------------------


class RunningProxy:
    """A :class:`LocalProxy` that runs in this loop."""

    def __init__(self, settings: ProxySettings) -> None:
        self.events: list[ProxyEvent] = []
        self._came = asyncio.Event()
        self.proxy = LocalProxy(settings, [self._note])
        self._services = settings.side is Side.SOURCE
        self._task = asyncio.get_running_loop().create_task(self.proxy.run())
        self._task.add_done_callback(lambda _: self._came.set())

    def _note(self, event: ProxyEvent) -> None:
        self.events.append(event)
        self._came.set()

    def all(self, kind: type[E]) -> list[E]:
        """Return the events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    async def seen(self, kind: type[E], count: int = 1) -> E:
        """Wait for the ``count``-th event of a kind and return it."""
        async with asyncio.timeout(HANG):
            while len(self.all(kind)) < count and not self._task.done():
                self._came.clear()
                await self._came.wait()
        if len(self.all(kind)) < count:
            await self._task  # raises what ended it
            raise AssertionError(f"the proxy ended without {kind.__name__}: {self.events}")
        return self.all(kind)[count - 1]

    async def ready(self, links: int = 1) -> dict[str, LocalAddress]:
        """Wait until the tunnel can be used on the ``links``-th link; return the addresses."""
        await self.seen(Connected, links)
        mapped = await self.seen(ServicesMapped, links)
        if not self._services:
            return dict(mapped.services)
        await self.seen(Listening, links * len(mapped.services))
        latest = self.all(Listening)[-len(mapped.services) :]
        return {event.service_id: event.address for event in latest}

    async def ended(self) -> ExitCode:
        """Return what the command would end with, or raise what ``run`` raises."""
        async with asyncio.timeout(HANG):
            await self._task
        return ExitCode.OK

    async def stop(self) -> ExitCode:
        """Ask the proxy to end in order and wait for it."""
        self.proxy.stop()
        return await self.ended()

    async def close(self) -> None:
        """End at once if it still runs."""
        if not self._task.done():
            self.proxy.stop()
            self.proxy.stop()
        async with asyncio.timeout(HANG):
            await asyncio.wait([self._task])


@asynccontextmanager
async def running_proxy(settings: ProxySettings) -> AsyncIterator[RunningProxy]:
    """A proxy in this loop, ended at the latest when the block ends."""
    running = RunningProxy(settings)
    try:
        yield running
    finally:
        await running.close()


@dataclass(frozen=True)
class Ends:
    """Both proxies of a tunnel, ready."""

    source: RunningProxy
    destination: RunningProxy
    listening: dict[str, LocalAddress]
    """Service id -> where the source listens."""


@asynccontextmanager
async def both_proxies(source: ProxySettings, destination: ProxySettings) -> AsyncIterator[Ends]:
    """Source and destination in this loop, ready."""
    async with running_proxy(destination) as far, running_proxy(source) as near:
        await far.ready()
        yield Ends(near, far, await near.ready())


# -- applications and clients --------------------------------------------------------------------


class _Server:
    """Connections of one listening application; each has a task."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that has gone is no fault of the application.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                await self._handler(reader, writer)
            finally:
                await hang_up(writer)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection and wait until it is closed."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def application(handler: Handler, at: LocalAddress = ANY_PORT) -> AsyncIterator[LocalAddress]:
    """A listening application; port 0 picks one. Gives its address."""
    running = _Server(handler)
    if isinstance(at, UnixAddress):
        server = await asyncio.start_unix_server(running.connected, at.path, limit=_STREAM_LIMIT)
    else:
        server = await asyncio.start_server(
            running.connected, at.host, at.port, limit=_STREAM_LIMIT, backlog=1024
        )
        at = TCPAddress(at.host, server.sockets[0].getsockname()[1])
    try:
        yield at
    finally:
        server.close()
        await running.end()
        await server.wait_closed()


@asynccontextmanager
async def client(at: LocalAddress) -> AsyncIterator[Streams]:
    """A client's connection."""
    if isinstance(at, UnixAddress):
        reader, writer = await asyncio.open_unix_connection(at.path, limit=_STREAM_LIMIT)
    else:
        reader, writer = await asyncio.open_connection(at.host, at.port, limit=_STREAM_LIMIT)
    try:
        yield reader, writer
    finally:
        await hang_up(writer)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An application that sends back what comes in."""
    while data := await reader.read(_STREAM_LIMIT):
        writer.write(data)
        await writer.drain()


async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An application for :func:`exchange`: takes all, answers its SHA-256 and it backwards."""
    (size,) = struct.unpack("!Q", await reader.readexactly(8))
    payload = await reader.readexactly(size)
    writer.write(hashlib.sha256(payload).digest() + payload[::-1])
    await writer.drain()
    await reader.read()


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes without a pattern, the same ones for the same arguments."""
    return random.Random(seed).randbytes(size)


async def exchange(at: LocalAddress, size: int, seed: int = 0) -> None:
    """Send ``size`` bytes to :func:`mirror` and check by SHA-256 what arrives on either side."""
    payload = noise(size, seed)
    async with asyncio.timeout(HANG), client(at) as (reader, writer):
        writer.write(struct.pack("!Q", size) + payload)
        await writer.drain()
        assert await reader.readexactly(32) == hashlib.sha256(payload).digest()
        answer = await reader.readexactly(size)
    assert hashlib.sha256(answer).digest() == hashlib.sha256(payload[::-1]).digest()


async def check_echo(streams: Streams, text: bytes) -> None:
    """Send ``text`` and expect it back."""
    reader, writer = streams
    writer.write(text)
    async with asyncio.timeout(HANG):
        assert await reader.readexactly(len(text)) == text


async def read_to_the_end(streams: Streams) -> bytes:
    """Return what comes until the other side ends the connection, in order or not."""
    received = b""
    async with asyncio.timeout(HANG):
        with contextlib.suppress(ConnectionError):
            while data := await streams[0].read(_STREAM_LIMIT):
                received += data
    return received


async def check_closed(streams: Streams) -> None:
    """Expect the other side to end the connection without another word."""
    assert await read_to_the_end(streams) == b""


def reset(streams: Streams) -> None:
    """End a connection with a TCP reset."""
    sock: socket.socket = streams[1].get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    streams[1].transport.abort()


def unused_port() -> int:
    """Return a port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
