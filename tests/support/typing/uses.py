"""A program that uses every public name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import assert_never, assert_type

import tailrace
from tailrace.testing.tunnels import LocalTunnel, ServiceInThread, TunnelFactory, service_in_thread

__all__ = [
    "Queue",
    "agent",
    "blocking",
    "connected",
    "control",
    "destination",
    "failed",
    "happened",
    "notified",
    "refused",
    "serve",
    "source",
    "test_a_device",
]


async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo one line."""
    writer.write(await reader.readline())


async def serve() -> None:
    """Embed a service."""
    everything = tailrace.Service(
        Path("state"),
        host="::1",
        api_port=1,
        data_port=2,
        host_names=["a"],
        region="us-east-1",
        limits="aws",
        tls_cert="c",
        tls_key=Path("k"),
        tls_ca="ca",
        audit_log="log",
        mqtt_url="mqtt://h",
        mqtt_ca="ca",
        mqtt_cert="c",
        mqtt_key="k",
        notify_command=("program", "argument"),
        notify_topic="d/{thing}",
    )
    async with everything, tailrace.Service(limits=tailrace.Limits(services=3)) as service:
        assert_type(service, tailrace.Service)
        assert_type(service.endpoints, tailrace.Endpoints)
        assert_type(service.environment(), dict[str, str])
        assert_type(service.client(timeout=3.0), tailrace.Client)


def test_a_device(tailrace_service: ServiceInThread, tailrace_tunnel: TunnelFactory) -> None:
    """Use the fixtures of the pytest plugin."""
    tunnel = tailrace_tunnel(HTTP=8080, SSH="192.0.2.7:22")
    assert_type(tunnel, LocalTunnel)
    assert_type(tunnel.address("SSH"), tuple[str, int])
    print(tunnel.url("HTTP"), tunnel.url("HTTP", "https"), tunnel.tunnel_id)
    near = tailrace.Side.SOURCE
    with tunnel.silence(), tunnel.throttle(), tunnel.throttle(1e6, near), tunnel.refuse(503, near):
        tunnel.cut(near)
        tunnel.wait_disconnected(near, timeout=3)
    tunnel.wait_connected(timeout=3.0)
    tunnel.rotate(near)
    tunnel.expire()
    tunnel.close()
    with tailrace_service.silence(), tailrace_service.throttle(1e6), tailrace_service.refuse():
        tailrace_service.cut()
    tailrace_service.expire(tunnel.tunnel_id)
    assert_type(tailrace_service.client(), tailrace.Client)
    assert_type(tailrace_service.endpoints, tailrace.Endpoints)
    assert_type(tailrace_service.environment(), dict[str, str])
    tailrace_service.control_client(timeout=3.0).call("ListTunnels", {})
    with tailrace_service.tunnels() as open_tunnel, service_in_thread({"limits": "aws"}) as other:
        print(open_tunnel(HTTP=1), other)


async def source(token: str) -> None:
    """Use a source."""
    tunnel = tailrace.Tunnel.source(token, region="eu-west-1", resume_timeout=3.0, timeout=None)
    assert_type(tunnel, tailrace.SourceTunnel)
    events: AsyncIterator[tailrace.TunnelEvent] = tunnel.events()
    async with tunnel as entered:
        assert_type(entered, tailrace.SourceTunnel)
        await entered.wait_peer(timeout=30)
        reader, writer = await entered.open_connection("SSH")
        assert_type(reader, asyncio.StreamReader)
        assert_type(writer, asyncio.StreamWriter)
        assert_type(await entered.open_socket("SSH"), socket.socket)
        server = await entered.listen("HTTP", "127.0.0.1", 0)
        assert_type(server, tailrace.TunnelListener)
        with server:
            print(f"{server.service} at {server.host}:{server.port}")
        show(entered)
    async for event in events:
        happened(event)


def blocking_handler(sock: socket.socket) -> None:
    """Echo once."""
    sock.sendall(sock.recv(1024))


def blocking(token: str, secret: tailrace.Secret) -> None:
    """Use everything that blocks."""
    near = tailrace.sync.Tunnel.source(token, region="eu-west-1", ca=Path("ca.pem"), timeout=None)
    assert_type(near, tailrace.sync.SourceTunnel)
    kept: tailrace.sync.SocketHandler = blocking_handler
    services: dict[str, tailrace.sync.Application] = {"SSH": 22, "HTTP": "h:80", "CMD": kept}
    far = tailrace.sync.Tunnel.destination(secret, services, client_token=secret, max_threads=3)
    assert_type(far, tailrace.sync.DestinationTunnel)
    with near as entered, far:
        assert_type(entered, tailrace.sync.SourceTunnel)
        entered.wait_peer(timeout=30)
        with entered.open_connection("SSH", timeout=3) as connection:
            assert_type(connection, tailrace.sync.TunnelConnection)
            assert_type(connection.write(b"data"), int)
            assert_type(connection.readline(), bytes)
            connection.socket.settimeout(3.0)
            connection.write_eof()
        assert_type(entered.open_socket("SSH"), socket.socket)
        with entered.listen("HTTP", "127.0.0.1", 0) as server:
            assert_type(server, tailrace.sync.TunnelListener)
            print(f"{server.service} at {server.host}:{server.port}")
        assert_type(entered.status(), tailrace.TunnelStatus)
        for event in far.events():
            happened(event)
        far.wait_closed(timeout=1)
        far.close()
    with tailrace.sync.Service(Path("state"), limits="aws") as service:
        assert_type(service.endpoints, tailrace.Endpoints)
        assert_type(service.environment(), dict[str, str])
        with service.client() as client:
            assert_type(client, tailrace.sync.Client)
    client = tailrace.sync.Client(credentials=renewed, attempts=1)
    assert_type(client.open(services=["SSH"]), tailrace.OpenedTunnel)
    assert_type(client.describe("t"), tailrace.TunnelDescription)
    assert_type(client.rotate("t", tailrace.Side.SOURCE), tailrace.RotatedTokens)
    assert_type(client.tags("t"), dict[str, str])
    for each in client.list(thing="t", limit=3):
        assert_type(each, tailrace.TunnelSummary)
    hour = timedelta(hours=1)
    with tailrace.sync.connect("t", services=["SSH"], lifetime=hour, client=client) as tunnel:
        assert_type(tunnel, tailrace.sync.SourceTunnel)
        base: tailrace.sync.Tunnel = tunnel
        assert_type(base.client_token, str)


async def connected(opened: tailrace.OpenedTunnel, client: tailrace.Client) -> None:
    """Open a tunnel for as long as it is used."""
    hour = timedelta(hours=1)
    async with tailrace.connect("t", services=["SSH"], reuse=True, lifetime=hour) as tunnel:
        assert_type(tunnel, tailrace.SourceTunnel)
        assert_type(tunnel.tunnel_id, str | None)
    kept = tailrace.connect("t", services=("SSH",), keep=True, endpoint="h", ca=Path("ca.pem"))
    secret = tailrace.Secret("0" * 32)
    near = tailrace.Tunnel.source(opened.source_token, client_token=secret, dialect="V1")
    far = tailrace.Tunnel.destination(opened.destination_token, {"SSH": 22}, client_token=secret)
    taken = tailrace.connect(
        tunnel_id="i",
        timeout=None,
        client=client,
        client_token=secret,
        region=client.region,
        dialect="V2",
    )
    async with kept, taken, near, far:
        print(client.endpoint)


async def destination(token: str) -> None:
    """Use a destination."""
    serve: tailrace.StreamHandler = handler
    services: dict[str, tailrace.Application] = {"SSH": "localhost:22", "CMD": serve, "WEB": 80}
    async with tailrace.Tunnel.destination(token, services, endpoint="localhost:7444") as tunnel:
        assert_type(tunnel, tailrace.DestinationTunnel)
        show(tunnel)
        await tunnel.wait_closed()
        tunnel.renew(tailrace.Secret("token"))
        await tunnel.close()
    rule = tailrace.ServiceRule("camera.local:80", allow=["10.0.0.0/8"], max_connections=8)
    live = tailrace.ServiceMap({"WEB": rule, "CMD": serve, "*": 22})
    async with tailrace.Tunnel.destination(token, live):
        live.replace({**live.rules, "WEB": tailrace.ServiceRule(80, bandwidth=500_000)})
        found = live.find("WEB")
        assert found is not None
        assert_type(found.bandwidth, int | None)


def show(tunnel: tailrace.Tunnel) -> None:
    """Print the status of either end."""
    assert_type(tunnel.client_token, str)
    status: tailrace.TunnelStatus = tunnel.status()
    link: tailrace.LinkStatus = status.link
    if link.phase is tailrace.LinkPhase.CONNECTED and status.side is tailrace.Side.SOURCE:
        print(tailrace.__version__, link.round_trip, status.peer is tailrace.PeerPresence.ABSENT)
    connections: tuple[tailrace.ConnectionStatus, ...] = status.connections
    for connection in connections:
        if connection.state is tailrace.ConnectionState.OPEN:
            print(connection.bytes_in + connection.bytes_out)


def place(address: tailrace.LocalAddress) -> str:
    """Name a local address."""
    match address:
        case tailrace.TCPAddress(host, port):
            return f"{host}:{port}"
        case tailrace.UnixAddress(path):
            return path


def happened(event: tailrace.TunnelEvent) -> None:
    """Tell every event from the others."""
    match event:
        case tailrace.Started(side):
            print(side.other.value)
        case tailrace.Connecting(endpoint) | tailrace.Connected(endpoint):
            print(endpoint)
        case tailrace.ServicesMapped(services):
            print(*(place(address) for address in services.values() if address is not None))
        case tailrace.Listening(service_id, address, assigned):
            print(service_id, place(address), assigned)
        case tailrace.ListeningOnNetwork(address):
            print(place(address))
        case tailrace.PeerJoined(peer) | tailrace.PeerLeft(peer):
            print(peer.value)
        case tailrace.PeerDialectLearned(dialect):
            print(dialect)
        case tailrace.PeerSilent(service_id, seconds):
            print(service_id, seconds / 60)
        case tailrace.ConnectionOpened() | tailrace.ConnectionRefused():
            print(event.service_id, event.connection_id)
        case tailrace.ConnectionCut(received=received, reason=reason):
            print(received, reason)
        case tailrace.ConnectionClosed(bytes_in=bytes_in, bytes_out=bytes_out):
            print(bytes_in + bytes_out)
        case tailrace.Reconnecting(cause, delay):
            print(cause.retryable, delay)
        case tailrace.TunnelPaused(cause, count, timeout):
            print(cause.upper(), count, timeout / 60)
        case tailrace.TunnelResumed(after, count, size):
            print(after / 60, count, size)
        case tailrace.Ended(code, reason, requested):
            print(code, reason, requested)
        case tailrace.EventsDropped(count):
            print(count)
        case _:
            assert_never(event)


def failed(error: tailrace.TailraceError) -> str:
    """Tell every error from the others."""
    match error:
        case tailrace.AccessRefused() | tailrace.HandshakeAltered():
            return f"{error.status} {error.reason} {error.body}"
        case tailrace.CertificateRejected():
            return "clock" if error.fault is tailrace.CertificateFault.OUT_OF_DATE else "trust"
        case tailrace.ServiceUnavailable():
            return f"again in {error.retry_after} s"
        case tailrace.NameResolutionFailed() | tailrace.ConnectFailed() | tailrace.TLSFailed():
            return "network"
        case tailrace.ProxyRefused() | tailrace.NotTunnelingService() | tailrace.HandshakeFailed():
            return "web proxy or server"
        case tailrace.TokenRotated():
            return "token"
        case tailrace.LinkError():
            return f"{error.retryable}"
        case tailrace.ListenError():
            return f"{error.service_id} {error.port} {error.errno}"
        case tailrace.ServiceIdMismatch():
            return " ".join(error.service_ids)
        case tailrace.TunnelClosed() | tailrace.TimedOut():
            return "over"
        case tailrace.OpenFailed() | tailrace.ConfigurationError():
            return error.advice
        case tailrace.NotificationIgnored():
            return f"{error.expected}"
        case tailrace.NotificationNotStored():
            return error.advice
        case tailrace.LocalProtocolError():
            return "here"
        case tailrace.DecodeError() | tailrace.RemoteProtocolError() | tailrace.ProtocolError():
            return "there"
        case _:
            return error.setting


def renewed() -> tailrace.Credentials:
    """Return credentials that change."""
    return tailrace.Credentials("AKID", tailrace.Secret("secret"), tailrace.Secret("session"))


class Queue:
    """A source of one's own."""

    name = "queue"

    def status(self) -> str:
        """Return what it is doing."""
        return "connected"

    async def run(self, receive: Callable[[tailrace.Delivery], Awaitable[None]]) -> None:
        """Deliver one notification."""
        await receive(tailrace.Delivery(b"{}", "pump-7", retained=True))


async def agent() -> None:
    """Serve the tunnels of notifications."""
    services = tailrace.ServiceMap({"SSH": 22})
    async with tailrace.Agent(
        services,
        thing_name="pump-7",
        region="eu-west-1",
        endpoint="localhost",
        ca=Path("ca.pem"),
        max_tunnels=3,
        resume_timeout=0,
        state_dir="state",
    ) as entered:
        assert_type(entered, tailrace.Agent)
        found = await entered.receive(b"{}", thing_name="pump-7", retained=False)
        assert_type(found, tailrace.Notification | None)
        source: tailrace.NotificationSource = tailrace.FileSource(Path("tunnel.json"))
        await entered.run(source, tailrace.StdinSource())
        status: tailrace.AgentStatus = entered.status()
        ends: Mapping[str, tailrace.TunnelStatus] = entered.destinations()
        tunnels: tuple[tailrace.ServedStatus, ...] = status.tunnels
        print(*(tunnel.name for tunnel in tunnels), *status.sources.values(), *ends)
        entered.subscribe(entered.log_status)()
    async for notification in tailrace.notifications(source):
        notified(notification)


def notified(notification: tailrace.Notification) -> None:
    """Print what a notification says, except for its token."""
    assert_type(notification.access_token, tailrace.Secret)
    assert_type(notification.services, tuple[str, ...])
    assert_type(notification.expires_at, float | None)
    print(notification.region, notification.tunnel_id, notification.token_id)


async def control() -> None:
    """Use the control API."""
    client = tailrace.Client(
        profile="p", region="r", endpoint="https://localhost", credentials=renewed(), ca="ca.pem"
    )
    await client.aclose()
    async with tailrace.Client(credentials=renewed, timeout=1.5, attempts=1) as client:
        opened = await client.open(
            thing="t", services=("SSH",), description="d", lifetime=timedelta(hours=1), tags={}
        )
        assert_type(opened, tailrace.OpenedTunnel)
        assert_type(opened.source_token.reveal(), str)
        await client.tag(opened.arn, {"a": "b"})
        await client.untag(opened.arn, {"a"})
        assert_type(await client.tags(opened.arn), dict[str, str])
        rotated = await client.rotate(opened.tunnel_id, tailrace.Side.SOURCE, services=["SSH"])
        assert_type(rotated, tailrace.RotatedTokens)
        assert_type(rotated.source_token, tailrace.Secret | None)
        described(await client.describe(opened.tunnel_id))
        async for each in client.list(thing="t", limit=3):
            assert_type(each, tailrace.TunnelSummary)
        try:
            await client.close(opened.tunnel_id, delete=True)
        except tailrace.ControlError as error:
            print(error.code, error.retryable, error.advice)


def described(tunnel: tailrace.TunnelDescription) -> None:
    """Print what there is to know of a tunnel."""
    assert_type(tunnel.source, tailrace.SideState)
    assert_type(tunnel.destination.is_connected, bool)
    assert_type(tunnel.destination.since, datetime | None)
    assert_type(tunnel.services, tuple[str, ...])
    assert_type(tunnel.lifetime, timedelta)
    assert_type(tunnel.thing, str | None)
    assert_type(tunnel.tags, Mapping[str, str])
    if tunnel.state is tailrace.TunnelState.OPEN:
        print(tunnel.opened + tunnel.lifetime)


def refused(error: tailrace.ControlError) -> str:
    """Tell the errors of the control API apart."""
    match error:
        case tailrace.TunnelNotFound() | tailrace.LimitExceeded() | tailrace.CredentialsRefused():
            return error.advice
        case tailrace.CallRefused() | tailrace.ControlCertificateRejected():
            return error.code
        case tailrace.ControlThrottled() | tailrace.ResponseLost():
            return str(error)
        case _:
            return ""
