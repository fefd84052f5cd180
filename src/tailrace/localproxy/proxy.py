"""The local proxy: one class for both modes.

Source and destination differ in who opens a connection, not in how bytes flow: a
source has listeners, a destination dials. What lives as long as the proxy is here; what
lives as long as one link is in :mod:`.tunnel`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from ..common.addresses import LocalAddress, ServiceMap, TCPAddress
from ..common.redaction import register_secrets
from ..common.secret import Secret
from ..errors import (
    AccessRefused,
    LinkError,
    RemoteProtocolError,
    ServiceIdMismatch,
    TailraceError,
)
from ..link import (
    CloseCode,
    ClosedBy,
    Link,
    LinkClosed,
    LinkHandler,
    LinkSupervisor,
    ReconnectPolicy,
    ServiceEndpoint,
    TLSOptions,
)
from ..wire import Side
from .events import (
    Connected,
    Connecting,
    Ended,
    Listening,
    ProxyEvent,
    Reconnecting,
    ServicesMapped,
    Started,
    Subscriber,
)
from .link_session import LinkSession
from .listener import Listener, bind
from .settings import ProxySettings

__all__ = ["LocalProxy"]

logger = logging.getLogger(__name__)

_FLUSH_TIMEOUT: Final = 5.0
"""Seconds that local connections have to take their last bytes when the proxy ends."""
_DIAL_TIMEOUT: Final = 0.5
"""Seconds of them in which an application may still be reached that bytes wait for."""
_CLOSE_TIMEOUT: Final = 0.5
"""Seconds they then have to close their side."""


def _with_client_token(settings: ProxySettings) -> ProxySettings:
    """Give a proxy without a client token one, so that its access token works again."""
    if settings.client_token is not None:
        return settings
    token = Secret(str(uuid.uuid4()))
    register_secrets(token)
    return replace(settings, client_token=token)


class LocalProxy:
    """One end of a tunnel, from the first connect to the end of the tunnel.

    ``subscribers`` are called with every :class:`~tailrace.localproxy.events.ProxyEvent`.
    Make it and use it inside a running event loop.
    """

    def __init__(self, settings: ProxySettings, subscribers: Iterable[Subscriber] = ()) -> None:
        settings = _with_client_token(settings)
        self._settings = settings
        self._is_source = settings.side is Side.SOURCE
        self._subscribers = tuple(subscribers)
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, Listener] = {}
        self._waiting: dict[str, tuple[socket.socket, str]] = {}
        self._tunnel: LinkSession | None = None
        self._old_tunnels: set[LinkSession] = set()
        self._last_closed = LinkClosed(ClosedBy.US, CloseCode.OK, "")
        self._failure: TailraceError | None = None
        self._stopping = False
        self._keeper = self._new_keeper()

    async def run(self) -> None:
        """Serve until the tunnel ends or :meth:`stop` is called.

        Raises:
            TailraceError: the proxy cannot go on.
        """
        self.emit(Started(self._settings.side))
        try:
            if self._is_source and self._settings.services is not None:
                for service_id, address in self._settings.services.items():
                    self._bind(service_id, address)
            await self._keep_link()
            if self._failure is not None:
                raise self._failure
            await self._drain()
        finally:
            self._close()
        self.emit(Ended(self._last_closed.code, self._last_closed.reason))

    async def _keep_link(self) -> None:
        try:
            await self._keeper.run()
        except AccessRefused as error:
            logger.error(
                'Proxy server rejected web socket upgrade request: (HTTP/1.1 %d %s) "%s"',
                error.status,
                error.reason,
                error.body,
            )
            raise

    def stop(self) -> None:
        """End in order: reset open connections, close the link with 1000, then return from run.

        The second call does not wait for anything.
        """
        if self._stopping:
            self._abort()
            return
        self._stopping = True
        self._pause_listeners()
        if self._tunnel is not None:
            self._tunnel.reset_all()
        self._keeper.stop()

    # -- the link ----------------------------------------------------------------------

    def _new_keeper(self) -> LinkSupervisor:
        settings = self._settings
        target = ServiceEndpoint(
            host=settings.host,
            port=settings.port,
            side=settings.side,
            access_token=settings.access_token,
            client_token=settings.client_token,
            subprotocol=settings.subprotocol,
            tls=TLSOptions(settings.capath, settings.verify_tls),
            connect_timeout=settings.connect_timeout,
            web_proxy=settings.web_proxy,
        )
        self._endpoint = target.authority
        policy = ReconnectPolicy(
            retry_count=settings.connect_retry_count,
            retry_delay=settings.retry_delay,
            retry_delay_cap=settings.retry_delay_cap,
            ping_period=settings.ping_period,
        )
        return LinkSupervisor(target, policy, self, backend=settings.backend.value)

    def new_handler(self) -> LinkHandler:
        """Make the tunnel that the next link will carry."""
        self.emit(Connecting(self._endpoint))
        self._tunnel = LinkSession(self._loop, self._settings, self)
        return self._tunnel

    def link_opened(self, link: Link) -> None:
        """Take the open link."""
        assert self._tunnel is not None
        self._tunnel.link_opened(link)
        self.emit(Connected(self._endpoint, link.info.channel_id, link.info.backend))

    def link_down(self, closed: LinkClosed) -> None:
        """Stop accepting: clients wait in the backlog for the next link."""
        self._last_closed = closed
        self._pause_listeners()
        ours = closed.by is ClosedBy.US and closed.code == CloseCode.PROTOCOL_ERROR
        if ours and not self._settings.reconnect_on_data_error:
            self.tunnel_failed(RemoteProtocolError(closed.reason))
        if self._tunnel is not None:
            self._retire(self._tunnel)

    def retrying(self, cause: LinkError, delay: float) -> None:
        """Tell that the link will be set up again."""
        self.emit(Reconnecting(cause, delay))

    def _retire(self, tunnel: LinkSession) -> None:
        self._tunnel = None
        self._old_tunnels = {old for old in self._old_tunnels if not old.is_drained}
        if not tunnel.is_drained:
            self._old_tunnels.add(tunnel)

    # -- what a tunnel asks of its owner ---------------------------------------------------

    def emit(self, event: ProxyEvent) -> None:
        """Tell the subscribers."""
        for subscriber in self._subscribers:
            subscriber(event)

    def tunnel_ready(self, tunnel: LinkSession, service_ids: tuple[str, ...]) -> None:
        """Map the service ids and, at a source, accept clients."""
        try:
            if self._is_source:
                services = self._source_services(service_ids)
            else:
                services = self._destination_services(service_ids)
            tunnel.map_services(services)
            self.emit(ServicesMapped(services))
            for service_id in services if self._is_source else ():
                listener = self._accept(service_id)
                assigned = self._configured(service_id) in (None, 0)
                self.emit(Listening(service_id, listener.address, assigned))
                self.service_free(service_id)
        except TailraceError as error:
            # Told as the end of the proxy: the link would take it for the end of the link.
            self.tunnel_failed(error)

    def tunnel_failed(self, error: TailraceError) -> None:
        """End the proxy with ``error``."""
        self._failure = error
        self._pause_listeners()
        self._keeper.stop()

    def client_waits(self, service_id: str) -> bool:
        """Tell whether a client waits for a V1 or V2 peer's one connection."""
        return service_id in self._waiting

    def service_free(self, service_id: str) -> None:
        """Connect the client that waits for a V1 or V2 peer's one connection."""
        waiting = self._waiting.pop(service_id, None)
        if waiting is None or self._tunnel is None:
            return
        self._accept(service_id)
        self._tunnel.client_accepted(service_id, *waiting)

    # -- service ids and addresses ------------------------------------------------------------

    def _address(self, service_id: str) -> LocalAddress | None:
        """Return the address given for a service id; a lone port serves the only id."""
        services: ServiceMap = self._settings.services or {}
        if service_id in services:
            return services[service_id]
        if "" in services:
            return services[""]
        return self._settings.fallback_services.get(service_id)

    def _configured(self, service_id: str) -> int | None:
        address = self._address(service_id)
        return address.port if isinstance(address, TCPAddress) else None

    def _source_services(self, service_ids: tuple[str, ...]) -> dict[str, LocalAddress]:
        """Bind what is not bound yet; ports once picked stay the same over reconnects."""
        services: dict[str, LocalAddress] = {}
        for service_id in service_ids:
            address = self._address(service_id) or TCPAddress("", 0)
            services[service_id] = address
            if self._listener_or_none(service_id) is None:
                self._bind(service_id, address)
        return services

    def _destination_services(self, service_ids: tuple[str, ...]) -> dict[str, LocalAddress]:
        found = {service_id: self._address(service_id) for service_id in service_ids}
        missing = [service_id for service_id, address in found.items() if address is None]
        if missing:
            raise ServiceIdMismatch(
                f"the tunnel has the services [{', '.join(service_ids)}], but there is no "
                f"destination for [{', '.join(missing)}]",
                setting="destinations",
            )
        return {service_id: address for service_id, address in found.items() if address}

    # -- clients -------------------------------------------------------------------------------

    def _bind(self, service_id: str, address: LocalAddress) -> None:
        if isinstance(address, TCPAddress) and not address.host:
            address = TCPAddress(self._settings.bind_address, address.port)
        listener = bind(service_id, address)
        self._listeners[service_id] = listener
        if not listener.is_local:
            logger.warning(
                "Listening on %s: whoever reaches this host can use the tunnel; "
                "-b 127.0.0.1 keeps it on this machine",
                listener.address,
            )

    def _listener_or_none(self, service_id: str) -> Listener | None:
        return self._listeners.get(service_id) or self._listeners.get("")

    def _listener(self, service_id: str) -> Listener:
        listener = self._listener_or_none(service_id)
        assert listener is not None
        return listener

    def _pause_listeners(self) -> None:
        for listener in self._listeners.values():
            listener.pause()

    def _accept(self, service_id: str) -> Listener:
        """Accept the clients of a service; one may be waiting already."""
        listener = self._listener(service_id)
        listener.start(self._loop, partial(self._client_accepted, listener, service_id))
        return listener

    def _client_accepted(
        self, listener: Listener, service_id: str, sock: socket.socket, peer: str
    ) -> None:
        """Connect a client, or let it wait until the peer can take another connection."""
        tunnel = self._tunnel
        if tunnel is not None and tunnel.can_take_client(service_id):
            tunnel.client_accepted(service_id, sock, peer)
            return
        logger.info("%s waits: the peer carries one connection of a service at a time", peer)
        self._waiting[service_id] = (sock, peer)
        listener.pause()

    # -- the end -------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Let local sockets take what was received before the end, for a bounded time."""
        tunnels = self._all_tunnels()
        dials = [self._loop.call_later(_DIAL_TIMEOUT, each.abandon_dials) for each in tunnels]
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT):
                for tunnel in tunnels:
                    await tunnel.wait_flushed()
        except TimeoutError:
            logger.warning("Some local connections did not take their last bytes in time")
        finally:
            for timer in dials:
                timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                for tunnel in tunnels:
                    await tunnel.wait_drained()

    def _all_tunnels(self) -> list[LinkSession]:
        return [*self._old_tunnels, *([self._tunnel] if self._tunnel is not None else [])]

    def _abort(self) -> None:
        if self._tunnel is not None and self._tunnel.link is not None:
            self._tunnel.link.abort()
        for tunnel in self._all_tunnels():
            tunnel.abort()

    def _close(self) -> None:
        self._abort()
        for listener in self._listeners.values():
            listener.close()
        for sock, _ in self._waiting.values():
            sock.close()
        self._waiting.clear()
