"""One end of a tunnel in a test: a local proxy behind a middlebox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from ..common.addresses import LocalAddress
from ..common.secret import Secret
from ..errors import OpenFailed, TimedOut, TunnelClosed
from ..localproxy.events import ProxyEvent, Reconnecting, ServicesMapped
from ..localproxy.proxy import LocalProxy
from ..localproxy.settings import ProxySettings
from ..localproxy.status import LinkPhase
from ..wire import Side
from .middlebox import Middlebox

__all__ = ["LocalEnd"]

_READY_SECONDS: Final = 30.0
"""For a proxy to connect, or to notice what was done to it."""
_END_SECONDS: Final = 1.0
"""For a proxy that is stopped to bring what it has to its clients."""
_FLUSH_SECONDS: Final = 10.0
"""For one whose tunnel has ended: more than it takes for that itself."""


class LocalEnd:
    """A local proxy, and the one that takes its place when its token is rotated.

    All of it belongs to one event loop. ``box`` is what ``settings`` connect to.
    """

    def __init__(self, settings: ProxySettings, box: Middlebox) -> None:
        self.box = box
        self.services: Mapping[str, LocalAddress | None] = {}
        """Where a source listens."""
        self.losses = 0
        """Links that were lost, or could not be set up."""
        self._settings = settings
        self._changed = asyncio.Event()
        self._proxy: LocalProxy | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def side(self) -> Side:
        """Source or destination."""
        return self._settings.side

    @property
    def is_connected(self) -> bool:
        """Whether there is a link, as far as the proxy knows."""
        proxy = None if self.has_ended else self._proxy
        return proxy is not None and proxy.status().link.phase is LinkPhase.CONNECTED

    @property
    def has_ended(self) -> bool:
        """Whether the proxy will connect no more."""
        return self._task is None or self._task.done()

    async def start(self) -> None:
        """Run a proxy, and return when it carries connections.

        Raises:
            TailraceError: it cannot.
        """
        self._proxy = LocalProxy(self._settings)
        self._proxy.subscribe(self._note)
        self.services = {}
        self._task = asyncio.get_running_loop().create_task(self._proxy.run())
        self._task.add_done_callback(lambda _: self._notify())
        try:
            await self._goes_on_until(lambda: bool(self.services), _READY_SECONDS, "")
        except TimedOut:
            raise OpenFailed(f"the {self.side} has not connected to the service") from None

    async def stop(self) -> None:
        """End the proxy, whatever it is doing."""
        task = self._task
        if task is None:
            return
        if not task.done():
            assert self._proxy is not None
            self._proxy.stop()
            await asyncio.wait([task], timeout=_END_SECONDS)
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            # Why it has ended, a test may have brought about.
            task.exception()

    async def ended(self) -> None:
        """Wait until the proxy has ended; not for ever, as it may not hear of its tunnel's end."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_FLUSH_SECONDS)

    async def restart(self, token: Secret) -> None:
        """Let a proxy with a new access token take the place of one whose link was cut.

        A source listens at the same ports.

        Raises:
            TailraceError: it cannot connect.
        """
        await self.ended()
        await self.stop()
        services = self._settings.services
        if self.side is Side.SOURCE:
            services = {name: at for name, at in self.services.items() if at is not None}
        self._settings = replace(self._settings, access_token=token, services=services)
        await self.start()

    async def cut(self) -> None:
        """Reset the link, and return when the proxy has noticed.

        Raises:
            TimedOut: it has not.
        """
        losses, was_connected = self.losses, self.is_connected
        self.box.cut()
        if was_connected:
            await self.lost(losses)

    async def lost(self, losses: int) -> None:
        """Wait until more links than ``losses`` were lost.

        Raises:
            TimedOut: the proxy has not noticed.
        """
        await self._until(
            lambda: self.losses > losses or self.has_ended,
            _READY_SECONDS,
            f"the {self.side} has not noticed that its link was cut",
        )

    async def regained(self, timeout: float) -> None:
        """Wait until there is a link.

        Raises:
            TimedOut: there is none.
            TailraceError: the proxy has ended, and why.
        """
        late = f"the {self.side} has not set its link up again"
        await self._goes_on_until(lambda: self.is_connected, timeout, late)

    async def given_up(self, timeout: float) -> None:
        """Wait until there is no link.

        Raises:
            TimedOut: there still is one.
        """
        late = f"the {self.side} has not given its link up"
        await self._until(lambda: not self.is_connected, timeout, late)

    async def _goes_on_until(self, holds: Callable[[], bool], timeout: float, late: str) -> None:
        await self._until(lambda: self.has_ended or holds(), timeout, late)
        if self.has_ended:
            if self._task is not None:
                self._task.result()
            raise TunnelClosed(f"the {self.side} has ended: the tunnel was closed")

    async def _until(self, holds: Callable[[], bool], timeout: float, late: str) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not holds():
                    await self._changed.wait()
        except TimeoutError:
            raise TimedOut(f"{late} within {timeout:g} s") from None

    def _note(self, event: ProxyEvent) -> None:
        match event:
            case ServicesMapped(services):
                self.services = services
            case Reconnecting():
                self.losses += 1
        self._notify()

    def _notify(self) -> None:
        # A new one, so that those who wait now look once more, and nobody turns in circles.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
