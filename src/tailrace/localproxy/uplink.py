"""The way from a local proxy to the service: one link after the other, and what they carry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..common.secret import Secret
from ..errors import LinkError, RemoteProtocolError, TailraceError
from ..link import (
    CloseCode,
    ClosedBy,
    Link,
    LinkClosed,
    LinkHandler,
    LinkSupervisor,
    ReconnectPolicy,
    ServiceEndpoint,
    SupervisorOutcome,
)
from ..session import EndCause
from ..wire import Capability
from .clients import Clients
from .events import Connected, Connecting, ProxyEvent, Reconnecting
from .link_session import LinkSession
from .log import TunnelLog
from .settings import ProxySettings
from .traffic import Traffic

__all__ = ["Uplink"]


class Uplink:
    """Keeps a link, gives each new one a traffic, and lets the old ones drain.

    A traffic that survives its link is given to the next one.

    ``ready`` is called with the traffic and the service ids of a link on which they are
    known, ``failed`` with what another link would not mend.
    """

    def __init__(
        self,
        settings: ProxySettings,
        target: ServiceEndpoint,
        clients: Clients,
        ready: Callable[[Traffic, tuple[str, ...]], None],
        failed: Callable[[TailraceError], None],
        emit: Callable[[ProxyEvent], None],
        log: TunnelLog,
    ) -> None:
        self._settings = settings
        self._endpoint = target.authority
        self._clients = clients
        self._ready = ready
        self._failed = failed
        self._emit = emit
        self._log = log
        self._session: LinkSession | None = None
        self._traffic: Traffic | None = None
        """What the link carries, or will carry."""
        self._draining: set[Traffic] = set()
        self.last_closed = LinkClosed(ClosedBy.US, CloseCode.OK, "")
        """How the latest link ended."""
        policy = ReconnectPolicy(
            retry_count=settings.connect_retry_count,
            retry_delay=settings.retry_delay,
            retry_delay_cap=settings.retry_delay_cap,
            ping_period=settings.ping_period,
            renewal_timeout=settings.renewal_timeout,
        )
        self._supervisor = LinkSupervisor(
            target,
            policy,
            self,
            backend=settings.backend.value,
            in_haste=lambda: self._traffic is not None and self._traffic.waits,
        )

    @property
    def link(self) -> Link | None:
        """The open link, if there is one."""
        return self._session.link if self._session is not None else None

    @property
    def round_trip(self) -> float | None:
        """Seconds from the latest answered heartbeat to its pong, on the open link."""
        return self._supervisor.round_trip

    @property
    def traffics(self) -> list[Traffic]:
        """What the links carry, the drains of earlier ones first."""
        present = [self._traffic] if self._traffic is not None else []
        return [*self._draining, *present]

    async def run(self) -> SupervisorOutcome:
        """Keep a link until the tunnel has ended or :meth:`stop` is called; return which.

        Raises:
            TailraceError: as :meth:`tailrace.link.LinkSupervisor.run`.
        """
        try:
            return await self._supervisor.run()
        finally:
            # Nobody comes to go on with what waits for the next link.
            if self._traffic is not None:
                self._traffic.give_up(EndCause.TUNNEL_ENDED)

    def stop(self) -> None:
        """Close the link in order, and set up none any more."""
        self._supervisor.stop()

    def renew(self, access_token: Secret) -> None:
        """Use another access token for the next link, as :meth:`LinkSupervisor.renew`."""
        self._supervisor.renew(access_token)

    def reset_all(self, failure: str) -> None:
        """Reset every connection in the tunnel, and say why; their local ends drain."""
        if self._session is not None:
            self._session.stop_receiving()
        if self._traffic is not None:
            self._traffic.connections.reset_all(failure)

    def abort(self) -> None:
        """Drop the link and close every local end at once."""
        if self.link is not None:
            self.link.abort()
        for traffic in self.traffics:
            traffic.abort()

    # -- link observer ---------------------------------------------------------------------

    def new_handler(self) -> LinkHandler:
        self._emit(Connecting(self._endpoint))
        loop = asyncio.get_running_loop()
        if self._traffic is None:
            self._traffic = Traffic(
                loop, self._settings, self._clients, self._ready, self._emit, self._log
            )
        self._session = LinkSession(loop, self._traffic, self._failed)
        return self._session

    def link_opened(self, link: Link) -> None:
        assert self._session is not None
        self._session.link_opened(link)
        info = link.info
        tells_presence = Capability.FLOW in info.capabilities
        self._emit(Connected(self._endpoint, info.channel_id, info.backend, tells_presence))

    def link_down(self, closed: LinkClosed) -> None:
        """Accept no clients until there is a link again: they wait in the backlog."""
        self.last_closed = closed
        self._clients.pause()
        ours = closed.by is ClosedBy.US and closed.code == CloseCode.PROTOCOL_ERROR
        if ours and not self._settings.reconnect_on_data_error:
            self._failed(RemoteProtocolError(closed.reason))
        self._session = None
        if self._traffic is not None and not self._traffic.survives:
            self._draining.add(self._traffic)
            self._traffic = None
        self._draining = {traffic for traffic in self._draining if not traffic.is_drained}

    def retrying(self, cause: LinkError, delay: float) -> None:
        self._emit(Reconnecting(cause, delay))
