"""``tailrace.connect``: a tunnel for as long as a block lasts, opened and closed at the service."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final
from uuid import uuid4

from ..aws import Client, Secret, TunnelState, aws_endpoint
from ..common.uninterrupted import uninterrupted
from ..errors import (
    ConfigurationError,
    ControlError,
    ResponseLost,
    TailraceError,
    TunnelNotFound,
)
from ..localproxy.endpoints import ENDPOINT_VARIABLE, REGION_VARIABLE
from ..localproxy.settings import ProxySettings
from ..wire import Side
from .device import wait_for_device
from .settings import RESUME_TIMEOUT, DialectName, check_seconds, proxy_settings
from .tunnel import SourceTunnel

__all__ = ["ConnectObserver", "connect", "connect_observed", "region_of"]

_LOG = logging.getLogger("tailrace")
_MOST_REUSED: Final = 100
"""How many tunnels of a thing are looked at for one to reuse, newest first."""
_OWNED: Final = "tailrace.connect "
"""How the description of a tunnel begins that a program has opened and will close."""
_KEPT: Final = "tailrace.connect, kept "
"""The same of one that stays open, and so may be reused by anybody."""


class ConnectObserver:
    """Is told what :func:`connect_observed` does; this one ignores it."""

    def opening(self, description: str) -> None:
        """Called before a tunnel is opened, which its description will tell from all others."""

    def opened(self, tunnel_id: str) -> None:
        """Called when a tunnel was opened, and its thing told."""

    def taken(self, tunnel_id: str) -> None:
        """Called when a tunnel that was open was taken instead."""

    def entering(self, tunnel: SourceTunnel) -> None:
        """Called before the source connects; its events tell how that goes."""

    def waiting(self) -> None:
        """Called when the source is connected, and its device is waited for."""

    def closed(self, tunnel_id: str) -> None:
        """Called when a tunnel that was opened is closed again."""


def connect(
    thing: str | None = None,
    *,
    tunnel_id: str | None = None,
    services: Iterable[str] = (),
    reuse: bool = False,
    keep: bool = False,
    lifetime: timedelta | None = None,
    timeout: float | None = 30.0,
    client: Client | None = None,
    client_token: str | Secret | None = None,
    region: str | None = None,
    endpoint: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    dialect: DialectName | None = None,
    resume_timeout: float = RESUME_TIMEOUT,
) -> AbstractAsyncContextManager[SourceTunnel]:
    """Open a tunnel to a thing, wait for its device, and close the tunnel at the end of the block.

    The block has the source, a :class:`SourceTunnel`. A tunnel that was opened is closed, too, when
    entering fails or is cancelled: that may take as long as calls of the client may. One that was
    taken with ``tunnel_id`` or ``reuse`` stays open; it gets a new source token, and its
    destination stays connected.

    Args:
        thing: the thing that is sent the destination's token; needs ``services``.
        tunnel_id: take this tunnel instead; its source, if connected, is disconnected.
        services: service ids of the thing, as ``SSH``.
        reuse: take an open tunnel of the thing that has the services, whose device is connected
            and whose source is not; open one only if there is none.
        keep: leave a tunnel open that was opened, if it was entered.
        lifetime: whole minutes, 1 to 720, after which the tunnel is closed; the longest if none is
            given.
        timeout: seconds that each of connecting to the service and waiting for the device may take;
            ``None``: for ever. Where the service does not tell, as AWS' does not, the control API
            is asked for the device, at first each second, later every 5 seconds.
        client: makes the calls; otherwise a :class:`Client` of its own does, which is closed.
        client_token, region, endpoint, ca, dialect, resume_timeout: as for :meth:`Tunnel.source`.
            Without region, endpoint and the variables, the region is that of the client if it
            calls AWS.

    Raises:
        ConfigurationError: an argument or a variable of the environment is not valid.
        TimedOut: service or device did not come in time.
        ControlError: a call of the client failed; or the tunnel could not be closed, which a note
            says where another error is raised.
        TailraceError: the tunnel cannot be used; :attr:`TailraceError.advice` says what to do.

    Example::

        async with tailrace.connect("pump-7", services=["SSH"]) as tunnel:
            reader, writer = await tunnel.open_connection("SSH")
    """
    return connect_observed(
        ConnectObserver(),
        thing,
        tunnel_id=tunnel_id,
        services=services,
        reuse=reuse,
        keep=keep,
        lifetime=lifetime,
        timeout=timeout,
        client=client,
        client_token=client_token,
        region=region,
        endpoint=endpoint,
        ca=ca,
        dialect=dialect,
        resume_timeout=resume_timeout,
    )


def connect_observed(
    observer: ConnectObserver,
    thing: str | None = None,
    *,
    tunnel_id: str | None = None,
    services: Iterable[str] = (),
    reuse: bool = False,
    keep: bool = False,
    lifetime: timedelta | None = None,
    timeout: float | None = 30.0,
    client: Client | None = None,
    client_token: str | Secret | None = None,
    region: str | None = None,
    endpoint: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    dialect: DialectName | None = None,
    resume_timeout: float = RESUME_TIMEOUT,
) -> AbstractAsyncContextManager[SourceTunnel]:
    """Do as :func:`connect`, and tell an observer about it."""
    if isinstance(services, str):
        raise ConfigurationError(f"services is {services!r}: give a list, [{services!r}]")
    if client is not None and not isinstance(client, Client):
        raise ConfigurationError(f"client={client!r} is no tailrace.Client")
    check_seconds("timeout", timeout)
    wanted = _Wanted(thing, tunnel_id, tuple(services), reuse, keep, lifetime)
    wanted.check()

    def settings(client: Client) -> ProxySettings:
        return proxy_settings(
            Side.SOURCE,
            Secret(""),
            os.environ,
            region=region or (None if endpoint else region_of(client)),
            endpoint=endpoint,
            ca=ca,
            client_token=client_token,
            dialect=dialect,
            resume_timeout=resume_timeout,
        )

    return _connected(observer, wanted, client, settings, timeout)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which tunnel a program asks for."""

    thing: str | None
    tunnel_id: str | None
    services: tuple[str, ...]
    reuse: bool
    keep: bool
    lifetime: timedelta | None

    def check(self) -> None:
        """Raise :class:`ConfigurationError` where the arguments contradict each other."""
        if (self.thing is None) is (self.tunnel_id is None):
            raise ConfigurationError("which tunnel? give either a thing or tunnel_id=")
        if self.thing is not None and not self.services:
            raise ConfigurationError("a thing needs services=: name those of the thing")
        if self.tunnel_id is not None and (
            self.services or self.reuse or self.lifetime is not None
        ):
            raise ConfigurationError(
                "tunnel_id= takes a tunnel as it is; leave out services=, reuse= and lifetime="
            )


@asynccontextmanager
async def _connected(
    observer: ConnectObserver,
    wanted: _Wanted,
    client: Client | None,
    settings: Callable[[Client], ProxySettings],
    timeout: float | None,
) -> AsyncIterator[SourceTunnel]:
    """Have the tunnel for as long as the block lasts; ``client`` is made if there is none."""
    async with AsyncExitStack() as stack:
        used: Client = Client() if client is None else client
        if client is None:
            stack.push_async_callback(used.aclose)
        # All that can be wrong is found before a tunnel is opened.
        ready = settings(used)
        lease = _Lease(observer, used, wanted)
        stack.push_async_exit(lease.end)
        taken = await lease.begin()
        tunnel = SourceTunnel(replace(ready, access_token=taken.token), timeout, taken.tunnel_id)
        observer.entering(tunnel)
        await stack.enter_async_context(tunnel)
        observer.waiting()
        await wait_for_device(tunnel, used, taken.tunnel_id, timeout)
        lease.keep = wanted.keep
        yield tunnel


@dataclass(frozen=True, slots=True)
class _Taken:
    """A tunnel that is ours to use."""

    tunnel_id: str
    token: Secret
    """The source token."""


@dataclass(slots=True)
class _Lease:
    """A tunnel at the service; the end closes it if it was opened here and is not to be kept."""

    observer: ConnectObserver
    client: Client
    wanted: _Wanted
    keep: bool = False
    opened: str | None = None
    """Id of the tunnel that was opened."""

    async def begin(self) -> _Taken:
        """Take, reuse or open the tunnel that is wanted."""
        if self.wanted.tunnel_id is not None:
            return await self._take(self.wanted.tunnel_id)
        found = await self._reuse() if self.wanted.reuse else None
        return found or await self._open()

    async def _take(self, tunnel_id: str) -> _Taken:
        """Return a tunnel with a new source token."""
        rotated = await self.client.rotate(tunnel_id, Side.SOURCE)
        if rotated.source_token is None:
            raise ControlError("", f"the service returned no source token of tunnel {tunnel_id}")
        self.observer.taken(tunnel_id)
        return _Taken(tunnel_id, rotated.source_token)

    async def _reuse(self) -> _Taken | None:
        """Return a tunnel that nobody uses, with a new source token; ``None`` if there is none."""
        async for each in self.client.list(thing=self.wanted.thing, limit=_MOST_REUSED):
            if each.state is not TunnelState.OPEN or each.description.startswith(_OWNED):
                continue
            try:
                tunnel = await self.client.describe(each.tunnel_id)
                if (
                    tunnel.state is TunnelState.OPEN
                    and set(self.wanted.services) <= set(tunnel.services)
                    and tunnel.destination.is_connected
                    and not tunnel.source.is_connected
                ):
                    return await self._take(each.tunnel_id)
            except TunnelNotFound:
                continue  # closed and deleted meanwhile
        return None

    async def _open(self) -> _Taken:
        """Open a tunnel.

        A call that was sent cannot be taken back, so cancelling waits for its response: only that
        tells which tunnel is to be closed.
        """
        return await uninterrupted(self._call_open())

    async def _call_open(self) -> _Taken:
        # By this, a tunnel is found whose id was in a response that was lost.
        description = f"{_KEPT if self.wanted.keep else _OWNED}{uuid4()}"
        self.observer.opening(description)
        try:
            opened = await self.client.open(
                thing=self.wanted.thing,
                services=self.wanted.services,
                description=description,
                lifetime=self.wanted.lifetime,
            )
        except ResponseLost as error:
            with suppress(TailraceError):
                async for each in self.client.list(thing=self.wanted.thing, limit=_MOST_REUSED):
                    if each.description == description and each.state is TunnelState.OPEN:
                        self.opened = each.tunnel_id
            if self.opened is None:
                error.add_note(f"a tunnel may be open; its description is {description!r}")
            raise
        self.opened = opened.tunnel_id
        self.observer.opened(opened.tunnel_id)
        return _Taken(opened.tunnel_id, opened.source_token)

    async def end(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        """Close the tunnel; called at the end of the block, with its error if any."""
        if self.opened is None or self.keep:
            return
        failure = await uninterrupted(self._close(self.opened))
        if failure is None:
            return
        if error is None:
            raise failure
        # What has gone wrong first is what the program has to know.
        error.add_note(failure.__notes__[-1])

    async def _close(self, tunnel_id: str) -> TailraceError | None:
        """Close a tunnel; return why that failed, which is logged even if nobody takes it."""
        try:
            with suppress(TunnelNotFound):
                await self.client.close(tunnel_id)
        except TailraceError as failure:
            note = f"the tunnel {tunnel_id} may still be open: {failure}"
            _LOG.warning("%s", note)
            failure.add_note(note)
            return failure
        self.observer.closed(tunnel_id)
        return None


def region_of(client: Client) -> str | None:
    """Return the region of a client of AWS, unless the environment says which service it is.

    A token of another service never goes to AWS.
    """
    if os.environ.get(ENDPOINT_VARIABLE) or os.environ.get(REGION_VARIABLE):
        return None
    return client.region if client.endpoint == aws_endpoint(client.region) else None
