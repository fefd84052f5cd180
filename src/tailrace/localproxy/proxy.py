"""The local proxy: one class for both modes.

Source and destination differ in who opens a connection, not in how bytes flow: a source has
clients, a destination applications. What lives as long as the proxy is here; its links and
what they carry are in :mod:`.uplink`.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from ..common.addresses import LocalAddress
from ..common.secret import Secret
from ..errors import ConfigurationError, LocalProtocolError, TailraceError, TokenRotated
from ..link import ClosedBy, ServiceEndpoint, SupervisorOutcome, TLSOptions
from ..wire import OFFER, RESUME, Side
from .clients import Clients
from .destination import Destination
from .events import Ended, Events, ServicesMapped, Started, Subscriber
from .in_process import Streams
from .listener import Listener
from .log import TunnelLog
from .routes import LocalService
from .service_map import address_of, is_port_picked, source_addresses
from .settings import ProxySettings
from .status import ConnectionStatus, PeerPresence, TunnelHistory, TunnelStatus
from .traffic import Traffic
from .uplink import Uplink

__all__ = ["LocalProxy"]

_FLUSH_TIMEOUT: Final = 5.0
"""Seconds that local connections have to take their last bytes when the proxy ends."""
_DIAL_TIMEOUT: Final = 0.5
"""Seconds of them in which an application may still be reached that bytes wait for."""
_CLOSE_TIMEOUT: Final = 0.5
"""Seconds they then have to close their side."""


class LocalProxy:
    """One end of a tunnel, from the first connect to the end of the tunnel.

    Making one needs no event loop, opens nothing and connects to nothing. All else belongs to
    the loop that :meth:`run` is called in; only :meth:`subscribe` and :meth:`status` do not
    need one.

    Raises:
        ConfigurationError: the settings do not make sense.
    """

    def __init__(self, settings: ProxySettings) -> None:
        if settings.client_token is None:
            # Without one, the access token would not be taken a second time.
            settings = replace(settings, client_token=Secret(str(uuid.uuid4())))
        self._settings = settings
        self._is_source = settings.side is Side.SOURCE
        target = _target(settings)
        self._log = TunnelLog(settings.side, target.authority, target.secrets)
        self._events = Events(self._log)
        self._history = TunnelHistory(target.authority)
        self._events.subscribe(self._history)
        self._destination = Destination(settings, self._log)
        self._clients = Clients(settings.bind_address, self._events.emit, self._log)
        self._uplink = Uplink(
            settings,
            target,
            self._clients,
            self._tunnel_ready,
            self._tunnel_failed,
            self._events.emit,
            self._log,
        )
        self._service_ids: tuple[str, ...] = ()
        self._failure: TailraceError | None = None
        self._started = False
        self._stopping = False

    @property
    def client_token(self) -> Secret:
        """The client token of the settings, or the one that was made in its place."""
        assert self._settings.client_token is not None
        return self._settings.client_token

    @property
    def service_ids(self) -> tuple[str, ...]:
        """Those of the tunnel; empty before they are known."""
        return self._service_ids

    @property
    def peer(self) -> PeerPresence:
        """Whether the other side is connected."""
        return self._history.peer

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with every event from now on; return what ends that."""
        return self._events.subscribe(subscriber)

    def status(self) -> TunnelStatus:
        """Return what the proxy is doing; cheap, and possible at any time."""
        return self._history.status(
            self._settings.side,
            self._service_ids,
            self._uplink.round_trip,
            [
                ConnectionStatus.of(local)
                for traffic in self._uplink.traffics
                for local in traffic.connections
            ],
        )

    async def open_connection(self, service_id: str) -> Streams:
        """Connect to a service from within this process (source only).

        The streams behave as those of a TCP connection to a listener would. Waits until there
        is a link that can take a connection; may be called before :meth:`run`. After a refusal
        by the other side, or a cut, the reader raises ``ConnectionResetError`` behind what had
        come.

        Raises:
            OpenFailed: there is no such service, or a limit is reached.
            TunnelClosed: the tunnel has ended.
            LocalProtocolError: this is a destination.
        """
        self._require_source()
        return await self._clients.open_connection(service_id)

    async def open_socket(self, service_id: str) -> socket.socket:
        """Connect to a service as :meth:`open_connection`, and return a socket instead of streams.

        It is non-blocking and the caller's own. A reset tells of a refusal or a cut.

        Raises:
            OpenFailed: as in :meth:`open_connection`, or no socket can be made.
            TunnelClosed: the tunnel has ended.
            LocalProtocolError: this is a destination.
        """
        self._require_source()
        return await self._clients.open_socket(service_id)

    def listen(self, service_id: str, address: LocalAddress) -> Listener:
        """Accept clients of a service at one more address, until it or the proxy is closed.

        Port 0 picks one, which stays the same over reconnects. Clients that come while there is no
        link wait in the backlog. Call it on the loop of :meth:`run`.

        Raises:
            ListenError: the address cannot be bound.
            OpenFailed: there is no such service.
            TunnelClosed: the tunnel has ended.
            LocalProtocolError: this is a destination.
        """
        self._require_source()
        return self._clients.add_listener(service_id, address)

    def close_listener(self, listener: Listener) -> None:
        """Close what :meth:`listen` has returned; the connections of its clients go on."""
        self._clients.remove_listener(listener)

    def _require_source(self) -> None:
        if not self._is_source:
            raise LocalProtocolError("only a source opens connections")

    async def run(self) -> None:
        """Serve until the tunnel ends or :meth:`stop` is called. A proxy runs once.

        Raises:
            TailraceError: the proxy cannot go on.
        """
        if self._started:
            raise LocalProtocolError("a local proxy runs once")
        self._started = True
        try:
            self._events.emit(Started(self._settings.side))
            self._bind(self._settings.services or {})
            outcome = await self._uplink.run()
            if self._failure is not None:
                raise self._failure
            await self._drain()
            if outcome is SupervisorOutcome.ROTATED:
                raise TokenRotated("the access token was rotated")
        finally:
            await self._close()
        closed = self._uplink.last_closed
        requested = self._stopping and closed.by is ClosedBy.US
        self._events.emit(Ended(closed.code, closed.reason, requested))

    def stop(self) -> None:
        """End in order: reset open connections, close the link with 1000, then return from run.

        The second call does not wait for anything.
        """
        if self._stopping:
            self._uplink.abort()
            return
        self._stopping = True
        self._clients.pause()
        self._uplink.reset_all(f"the {self._settings.side.value} has been stopped")
        self._uplink.stop()

    def renew(self, access_token: Secret) -> None:
        """Use another access token of the same tunnel and side for the next link.

        An open link stays: the service ends it when it has made the new token.

        Raises:
            ConfigurationError: the token cannot be sent as it is.
        """
        self._log.add_secret(access_token)
        self._uplink.renew(access_token)

    # -- the tunnel ----------------------------------------------------------------------

    def _tunnel_ready(self, traffic: Traffic, service_ids: tuple[str, ...]) -> None:
        """Map the service ids and, at a source, let clients in."""
        self._service_ids = service_ids
        self._log.set_services(service_ids)
        try:
            if self._is_source:
                self._let_clients_in(traffic, service_ids)
            else:
                services, traffic.find_route = self._destination.settle(service_ids)
                addresses = {name: address_of(to) for name, to in services.items()}
                self._events.emit(ServicesMapped(addresses))
        except TailraceError as error:
            # Told as the end of the proxy: the link would take it for the end of the link.
            self._tunnel_failed(error)

    def _tunnel_failed(self, error: TailraceError) -> None:
        self._failure = error
        self._clients.pause()
        self._uplink.stop()

    def _let_clients_in(self, traffic: Traffic, service_ids: tuple[str, ...]) -> None:
        """Listen where nothing listens yet; ports once picked stay the same over reconnects."""
        listens = self._settings.listen
        services: dict[str, LocalAddress | None] = dict.fromkeys(service_ids)
        if listens:
            services |= source_addresses(self._settings, service_ids)
            self._bind(services)
            services = {
                name: self._clients.bound_address(name, services[name]) for name in services
            }
        self._events.emit(ServicesMapped(services))
        serve = traffic.connections.serve
        self._clients.tunnel_ready(service_ids, serve)
        for service_id in service_ids:
            if listens:
                self._clients.listen(service_id, is_port_picked(self._settings, service_id))
            serve(service_id)

    def _bind(self, services: Mapping[str, LocalService | None]) -> None:
        if not self._is_source or not self._settings.listen:
            return
        for service_id, service in services.items():
            address = address_of(service)
            assert address is not None
            self._clients.bind(service_id, address)

    # -- the end --------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Let local ends take what was received before the end, for a bounded time."""
        traffics = self._uplink.traffics
        loop = asyncio.get_running_loop()
        dials = [
            loop.call_later(_DIAL_TIMEOUT, each.applications.abandon_dials) for each in traffics
        ]
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT):
                for traffic in traffics:
                    await traffic.connections.wait_flushed()
        except TimeoutError:
            self._log.warning("Some local connections did not take their last bytes in time")
        finally:
            for timer in dials:
                timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                for traffic in traffics:
                    await traffic.wait_drained()

    async def _close(self) -> None:
        self._history.end()
        tasks = {task for each in self._uplink.traffics for task in each.applications.tasks}
        self._uplink.abort()
        self._clients.close("the tunnel has ended")
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT)


def _target(settings: ProxySettings) -> ServiceEndpoint:
    if settings.side is Side.SOURCE:
        addresses = map(address_of, (settings.services or {}).values())
        if None in addresses:
            raise ConfigurationError("a source listens at addresses; handlers are for destinations")
    return ServiceEndpoint(
        host=settings.host,
        port=settings.port,
        side=settings.side,
        access_token=settings.access_token,
        client_token=settings.client_token,
        subprotocol=settings.subprotocol,
        capabilities=OFFER | RESUME if settings.can_resume else OFFER,
        tls=TLSOptions(settings.capath, settings.verify_tls),
        connect_timeout=settings.connect_timeout,
        web_proxy=settings.web_proxy,
    )
