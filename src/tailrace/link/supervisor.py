"""Keeps one link to the service alive until the tunnel has ended or there is no hope."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from ..errors import AccessRefused, ConfigurationError, LinkError, TLSFailed
from .backoff import LASTED, Backoff
from .connector import connect
from .endpoint import ServiceEndpoint
from .heartbeat import Heartbeat, HeartbeatAction
from .interface import CloseCode, ClosedBy, Link, LinkClosed, LinkHandler

__all__ = ["LinkObserver", "LinkSupervisor", "ReconnectPolicy", "SupervisorOutcome"]

logger = logging.getLogger(__name__)

FOREVER: Final = -1


class SupervisorOutcome(Enum):
    """Why a keeper is done; each is an orderly end."""

    CLOSED = "closed"
    """The service closed the link with code 1000: the tunnel was closed or has expired."""
    ENDED = "ended"
    """The service closed the link with another code and then refused to have it back."""
    STOPPED = "stopped"
    """:meth:`LinkSupervisor.stop` was called."""


@dataclass(frozen=True, slots=True)
class ReconnectPolicy:
    """How patient a keeper is; times in seconds.

    Raises:
        ConfigurationError: a value makes no sense.
    """

    retry_count: int = FOREVER
    """Tries to set up the link again before giving up; -1: for ever."""
    retry_delay: float = 2.5
    """Longest first delay; the following ones grow exponentially."""
    retry_delay_cap: float = 120.0
    ping_period: float = 20.0

    def __post_init__(self) -> None:
        if self.retry_count < FOREVER:
            raise ConfigurationError(f"retry count {self.retry_count} is neither -1 nor a number")
        if self.retry_delay < 0 or self.retry_delay_cap < 0:
            raise ConfigurationError("a retry delay must not be negative")
        if not self.ping_period > 0:
            raise ConfigurationError(f"ping period {self.ping_period} is not positive")


class LinkObserver(Protocol):
    """Whoever wants a link kept; all calls come from the event loop's thread."""

    def new_handler(self) -> LinkHandler:
        """Return the handler of the next link: called before each try."""

    def link_opened(self, link: Link) -> None:
        """Learn of an open link, before its handler hears anything."""

    def link_down(self, closed: LinkClosed) -> None:
        """Learn that the link is gone, after its handler has."""

    def retrying(self, cause: LinkError, delay: float) -> None:
        """Learn why there will be another try, ``delay`` seconds from now."""


class LinkSupervisor:
    """One link to the service at a time: opened, pinged, and opened again when it breaks."""

    def __init__(
        self,
        endpoint: ServiceEndpoint,
        policy: ReconnectPolicy,
        observer: LinkObserver,
        *,
        backend: str = "auto",
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; :meth:`run` does the work.

        Args:
            backend: as for :func:`tailrace.link.connector.connect`.
            rng: for the jitter of the delays.
            clock: tells how long a link lasted, in seconds.
        """
        self._endpoint = endpoint
        self._policy = policy
        self._observer = observer
        self._backend = backend
        self._clock = clock
        # Not a secret: it spreads the load of many clients over time.
        dice = rng or random.Random()  # noqa: S311
        self._backoff = Backoff(policy.retry_delay, policy.retry_delay_cap, dice)
        self._failures = 0
        self._worked = False
        self._close_frame_seen = False
        self._stopping = False
        self._pause: asyncio.Timeout | None = None
        self._holder: _Holder | None = None

    @property
    def link(self) -> Link | None:
        """The open link, if there is one."""
        return self._holder.link if self._holder is not None else None

    @property
    def round_trip(self) -> float | None:
        """Seconds from the latest answered ping to its pong, on the open link."""
        return self._holder.round_trip if self._holder is not None else None

    async def run(self) -> SupervisorOutcome:
        """Keep the link until the tunnel has ended or :meth:`stop` is called.

        Raises:
            AccessRefused: the service refuses the tokens.
            TLSFailed: its certificate did not verify at the first try, or at any try before
                a link once worked.
            LinkError: the last failure, after ``retry_count`` tries in vain.
            ConfigurationError: as :func:`tailrace.link.connector.connect`, before a link
                once worked.
        """
        while not self._stopping:
            result = await self._try_once()
            if isinstance(result, SupervisorOutcome):
                return result
            await self._wait_after(result)
        return SupervisorOutcome.STOPPED

    def stop(self) -> None:
        """End: close an open link with code 1000 (bounded), give up a try or a delay at once."""
        if self._stopping:
            return
        self._stopping = True
        if self._pause is not None:
            self._pause.reschedule(asyncio.get_running_loop().time())
        if self._holder is not None:
            self._holder.link.close(CloseCode.OK, "")

    async def _try_once(self) -> SupervisorOutcome | LinkError:
        """Open a link and hold it to its end; tell what that means."""
        holder = _Holder(self._observer.new_handler())
        if self._stopping:
            return SupervisorOutcome.STOPPED
        try:
            async with asyncio.timeout(None) as self._pause:
                link = await connect(self._endpoint, holder, self._backend)
        except TimeoutError:
            return SupervisorOutcome.STOPPED  # only stop() sets this timeout
        except AccessRefused:
            if self._close_frame_seen:
                return SupervisorOutcome.ENDED
            raise
        except LinkError as error:
            return self._judge_failure(error)
        except ConfigurationError as error:
            # What was good for a link once may be out of reach for a moment only: certificates
            # that are being replaced, or no descriptor left to read them.
            if not self._worked:
                raise
            return self._judge_failure(LinkError(str(error)))
        finally:
            self._pause = None
        opened = self._clock()
        self._worked = True
        self._close_frame_seen = False
        self._holder = holder
        try:
            closed = await holder.hold(link, self._policy.ping_period, self._observer)
        finally:
            self._holder = None
        self._observer.link_down(closed)
        return self._judge_end(closed, self._clock() - opened)

    def _judge_failure(self, error: LinkError) -> SupervisorOutcome | LinkError:
        if self._stopping:
            return SupervisorOutcome.STOPPED
        # A certificate that verified once and now does not may be half of a roll-over.
        forgivable = self._worked and isinstance(error, TLSFailed)
        if not error.retryable and not forgivable:
            raise error
        return error

    def _judge_end(self, closed: LinkClosed, lasted: float) -> SupervisorOutcome | LinkError:
        if self._stopping:
            return SupervisorOutcome.STOPPED
        if closed.by is ClosedBy.PEER:
            if closed.code == CloseCode.OK:
                return SupervisorOutcome.CLOSED
            self._close_frame_seen = True
        self._backoff.link_lasted(lasted)
        if lasted >= LASTED:
            # A link that broke sooner leaves the count as a failed try would.
            self._failures = -1
        detail = f": {closed.reason}" if closed.reason else ""
        return LinkError(f"the link was closed by the {_WHO[closed.by]} ({closed.code}){detail}")

    async def _wait_after(self, cause: LinkError) -> None:
        self._failures += 1
        if self._policy.retry_count != FOREVER and self._failures > self._policy.retry_count:
            raise cause
        delay = self._backoff.next_delay()
        self._observer.retrying(cause, delay)
        if self._stopping:
            return
        try:
            async with asyncio.timeout(None) as self._pause:
                await asyncio.sleep(delay)
        except TimeoutError:
            pass  # stop()
        finally:
            self._pause = None


_WHO: Final = {
    ClosedBy.PEER: "service",
    ClosedBy.US: "local side",
    ClosedBy.NETWORK: "network",
}


class _Holder:
    """Stands between a link and its handler: pings, times pongs, notices the end."""

    __slots__ = (
        "_closed",
        "_handler",
        "_keepalive",
        "_loop",
        "_silence",
        "_timer",
        "frame_received",
        "link",
        "round_trip",
        "writing_paused",
        "writing_resumed",
    )

    link: Link

    def __init__(self, handler: LinkHandler) -> None:
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[LinkClosed] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._silence = ""
        self.round_trip: float | None = None
        # Straight to the handler: what comes often shall not make a detour.
        self.frame_received = handler.frame_received
        self.writing_paused = handler.writing_paused
        self.writing_resumed = handler.writing_resumed

    async def hold(self, link: Link, ping_period: float, observer: LinkObserver) -> LinkClosed:
        """Return how the link ended."""
        self.link = link
        self._keepalive = Heartbeat(ping_period, self._loop.time())
        try:
            observer.link_opened(link)
            self._beat()
            return await asyncio.shield(self._closed)
        except BaseException:
            link.abort()
            await self._closed
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def pong_received(self, payload: bytes) -> None:
        round_trip = self._keepalive.pong_received(payload, time.perf_counter())
        if round_trip is not None:
            self.round_trip = round_trip
        self._handler.pong_received(payload)

    def link_closed(self, closed: LinkClosed) -> None:
        if self._silence:
            closed = LinkClosed(ClosedBy.NETWORK, CloseCode.ABNORMAL, self._silence)
        self._closed.set_result(closed)
        self._handler.link_closed(closed)

    def _beat(self) -> None:
        now = self._loop.time()
        action = self._keepalive.on_deadline(now, self.link.last_received)
        if action is HeartbeatAction.DEAD:
            self._silence = f"nothing received for {self._keepalive.patience:g} s"
            self.link.abort()
            return
        if action is HeartbeatAction.PING:
            # Decimal milliseconds, as the reference sends them.
            payload = str(time.time_ns() // 1_000_000).encode()
            self._keepalive.ping_sent(payload, time.perf_counter())
            self.link.send_ping(payload)
        self._timer = self._loop.call_at(self._keepalive.next_deadline(), self._beat)
