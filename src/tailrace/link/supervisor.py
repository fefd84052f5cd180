"""Keeps one link to the service alive until the tunnel has ended or another try is pointless.

What happens after a link went down, or could not be set up, is decided as follows:

* The service says that the tunnel is over: close code 1000. Or it closes the link with another
  code and then refuses the tokens: they were good a moment ago, so it is the tunnel that ended.
* It says that the access token was rotated: close code 1008 with that reason. Another try would be
  refused, unless :meth:`LinkSupervisor.renew` brings the new token, which the policy may wait for.
* It refuses the tokens, or its certificate does not verify: final, another try would only repeat
  that. So is an answer of something that is no tunneling service, and that of a service which got
  another request than was sent. But where a link worked once, this may be a network that wants a
  login, and a certificate that does not verify, or authorities that cannot be read, may be half of
  a roll-over: these are tried again.
* Everything else, from an unknown host to a dropped connection, may pass: tried again after the
  delays of :mod:`tailrace.link.backoff`, quickly at first if the link had lasted, or after a longer
  one that the service asks for, as often as the policy allows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Final, Protocol

from ..common.secret import Secret
from ..errors import (
    AccessRefused,
    ConfigurationError,
    LinkError,
    TokenRotated,
)
from .backoff import LASTED, Backoff
from .connector import connect
from .endpoint import ServiceEndpoint
from .heartbeat import Heartbeat, HeartbeatAction
from .http.response import scrub
from .interface import CloseCode, ClosedBy, Link, LinkClosed, LinkHandler

__all__ = ["LinkObserver", "LinkSupervisor", "ReconnectPolicy", "SupervisorOutcome"]

FOREVER: Final = -1


class SupervisorOutcome(Enum):
    """Why a supervisor is done; each is an orderly end."""

    CLOSED = "closed"
    """The service closed the link with code 1000: the tunnel was closed or has expired."""
    ENDED = "ended"
    """The service closed the link with another code and then refused to have it back."""
    ROTATED = "rotated"
    """The service closed the link as its access token was rotated."""
    STOPPED = "stopped"
    """:meth:`LinkSupervisor.stop` was called."""


@dataclass(frozen=True, slots=True)
class ReconnectPolicy:
    """How often and how soon a link is set up again; times in seconds.

    Raises:
        ConfigurationError: a value makes no sense.
    """

    retry_count: int = FOREVER
    """Tries to set up the link again before giving up; -1: for ever."""
    retry_delay: float = 2.5
    """Longest first delay; the following ones grow exponentially. After a link that had lasted, a
    quick try comes before them."""
    retry_delay_cap: float = 120.0
    ping_period: float = 20.0
    renewal_timeout: float = 0.0
    """How long a new access token is waited for when the service says that it was rotated."""

    def __post_init__(self) -> None:
        if self.retry_count < FOREVER:
            raise ConfigurationError(f"retry count {self.retry_count} is neither -1 nor a number")
        if self.retry_delay < 0 or self.retry_delay_cap < 0:
            raise ConfigurationError("a retry delay must not be negative")
        if not self.ping_period > 0:
            raise ConfigurationError(f"ping period {self.ping_period} is not positive")


class LinkObserver(Protocol):
    """What a supervisor reports to; all calls come from the event loop's thread."""

    def new_handler(self) -> LinkHandler:
        """Called before each try; return the handler of the next link."""

    def link_opened(self, link: Link) -> None:
        """Called when a link is open, before its handler is called."""

    def link_down(self, closed: LinkClosed) -> None:
        """Called when a link is gone, after its handler's ``link_closed()``."""

    def retrying(self, cause: LinkError, delay: float) -> None:
        """Called when there will be another try, ``delay`` seconds later."""


class LinkSupervisor:
    """One link to the service at a time: opened, pinged, and opened again when it breaks."""

    def __init__(
        self,
        endpoint: ServiceEndpoint,
        policy: ReconnectPolicy,
        observer: LinkObserver,
        *,
        backend: str = "auto",
        in_haste: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare; :meth:`run` does the work.

        Args:
            backend: as for :func:`tailrace.link.connector.connect`.
            in_haste: returns whether connections wait for a lost link to come back.
        """
        self._in_haste = in_haste
        self._endpoint = endpoint
        self._policy = policy
        self._observer = observer
        self._backend = backend
        # Not a secret: it spreads the load of many clients over time.
        jitter = Random()  # noqa: S311
        self._backoff = Backoff(policy.retry_delay, policy.retry_delay_cap, jitter)
        self._failures = 0
        self._worked = False
        self._close_frame_seen = False
        self._stopped = asyncio.Event()
        self._renewed = asyncio.Event()
        """Set while there is an access token with which no link was tried."""
        self._link: Link | None = None
        self._handler: _Handler | None = None

    @property
    def round_trip(self) -> float | None:
        """Seconds from the latest answered ping to its pong, on the open link."""
        return self._handler.round_trip if self._handler is not None else None

    async def run(self) -> SupervisorOutcome:
        """Keep the link until the tunnel has ended or :meth:`stop` is called; to be called once.

        Raises:
            AccessRefused: the service refuses the tokens.
            TLSFailed: its certificate did not verify, and no link ever worked.
            NotTunnelingService, HandshakeAltered: something else answered, or changed the
                request, and no link ever worked.
            LinkError: the last failure, after ``retry_count`` retries.
            ConfigurationError: as :func:`tailrace.link.connector.connect`, and no link ever
                worked.
        """
        loop = asyncio.get_running_loop()
        keeping = loop.create_task(self._keep())
        stopping = loop.create_task(self._stopped.wait())
        try:
            await asyncio.wait([keeping, stopping], return_when=asyncio.FIRST_COMPLETED)
            if self._link is not None:
                await asyncio.wait([keeping])  # stop() has closed the link, which is bounded
        finally:
            # This gives up a try or a delay, and drops the link if it is run() that is cancelled.
            keeping.cancel()
            stopping.cancel()
            await asyncio.wait([keeping, stopping])
        return SupervisorOutcome.STOPPED if keeping.cancelled() else keeping.result()

    def stop(self) -> None:
        """End: close an open link with code 1000 (bounded), give up a try or a delay at once."""
        self._stopped.set()
        if self._link is not None:
            self._link.close(CloseCode.OK, "")

    def renew(self, access_token: Secret) -> None:
        """Use another access token from the next try on; an open link stays until it ends.

        Raises:
            ConfigurationError: it cannot be sent as it is.
        """
        self._endpoint = replace(self._endpoint, access_token=access_token)
        self._renewed.set()

    async def _keep(self) -> SupervisorOutcome:
        while not self._stopped.is_set():
            result = await self._try_once()
            if result is SupervisorOutcome.ROTATED:
                if not await self._wait_renewed():
                    return result
            elif isinstance(result, SupervisorOutcome):
                return result
            else:
                await self._wait_after(result)
        return SupervisorOutcome.STOPPED

    async def _wait_renewed(self) -> bool:
        """Return whether there is a new access token, in the time that the policy allows."""
        timeout = self._policy.renewal_timeout
        if timeout and not self._renewed.is_set():
            self._observer.retrying(TokenRotated("the access token was rotated"), timeout)
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._renewed.wait()
        return self._renewed.is_set()

    async def _try_once(self) -> SupervisorOutcome | LinkError:
        """Open a link and hold it to its end; return the outcome, or why to try again."""
        handler = _Handler(self._observer.new_handler(), self._endpoint.secrets)
        if self._stopped.is_set():
            return SupervisorOutcome.STOPPED
        self._renewed.clear()
        try:
            link = await connect(self._endpoint, handler, self._backend)
        except AccessRefused as error:
            if self._renewed.is_set():
                # It was the old token that was refused.
                return LinkError(str(error))
            if self._close_frame_seen:
                return SupervisorOutcome.ENDED
            raise
        except LinkError as error:
            return self._judge_failure(error)
        except ConfigurationError as error:
            if not self._worked:
                raise
            return self._judge_failure(LinkError(str(error)))
        self._worked = True
        self._close_frame_seen = False
        loop = asyncio.get_running_loop()
        opened = loop.time()
        closed = await self._hold(link, handler)
        self._observer.link_down(closed)
        return self._judge_end(closed, loop.time() - opened)

    async def _hold(self, link: Link, handler: _Handler) -> LinkClosed:
        """Ping an open link until it has ended; return how it did."""
        loop = asyncio.get_running_loop()
        heartbeat = Heartbeat(self._policy.ping_period, loop.time())
        self._link, self._handler = link, handler
        try:
            if self._stopped.is_set():
                link.close(CloseCode.OK, "")  # stop() came too late for the try
            self._observer.link_opened(link)
            while not handler.ended.done():
                match heartbeat.on_deadline(loop.time(), link.last_received):
                    case HeartbeatAction.DEAD:
                        handler.silence = f"nothing received for {heartbeat.patience:g} s"
                        link.abort()
                        return await handler.ended
                    case HeartbeatAction.PING:
                        # Decimal milliseconds, as in the reference.
                        payload = str(time.time_ns() // 1_000_000).encode()
                        handler.pinged = payload, time.perf_counter()
                        link.send_ping(payload)
                delay = heartbeat.next_deadline() - loop.time()
                await asyncio.wait([handler.ended], timeout=delay)
            return handler.ended.result()
        except BaseException:
            link.abort()
            await handler.ended
            raise
        finally:
            self._link = self._handler = None

    def _judge_failure(self, error: LinkError) -> SupervisorOutcome | LinkError:
        if self._stopped.is_set():
            return SupervisorOutcome.STOPPED
        if not error.retryable and not (self._worked and error.retryable_once_worked):
            raise error
        return error

    def _judge_end(self, closed: LinkClosed, lasted: float) -> SupervisorOutcome | LinkError:
        if self._stopped.is_set():
            return SupervisorOutcome.STOPPED
        if closed.by is ClosedBy.PEER:
            if closed.code == CloseCode.OK:
                return SupervisorOutcome.CLOSED
            if closed.code == CloseCode.POLICY_VIOLATION and "rotated" in closed.reason.lower():
                # Not so for any 1008: a link that a newer one replaces ends with it too.
                return SupervisorOutcome.ROTATED
            self._close_frame_seen = True
        self._backoff.link_lasted(lasted)
        if lasted >= LASTED:
            # A link that broke sooner counts as a failed try.
            self._failures = -1
        detail = f": {closed.reason}" if closed.reason else ""
        return LinkError(f"the link was closed by the {_WHO[closed.by]} ({closed.code}){detail}")

    async def _wait_after(self, cause: LinkError) -> None:
        self._failures += 1
        if self._policy.retry_count != FOREVER and self._failures > self._policy.retry_count:
            raise cause
        asked_for = min(cause.retry_after, self._policy.retry_delay_cap)
        delay = max(self._backoff.next_delay(in_haste=self._in_haste()), asked_for)
        self._observer.retrying(cause, delay)
        await asyncio.sleep(delay)


_WHO: Final = {
    ClosedBy.PEER: "service",
    ClosedBy.US: "local side",
    ClosedBy.NETWORK: "network",
}


class _Handler:
    """The observer's handler, and how its link ended."""

    __slots__ = (
        "_handler",
        "_secrets",
        "ended",
        "frame_received",
        "pinged",
        "round_trip",
        "silence",
        "writing_paused",
        "writing_resumed",
    )

    def __init__(self, handler: LinkHandler, secrets: tuple[Secret, ...]) -> None:
        self._handler = handler
        self._secrets = secrets
        self.ended: asyncio.Future[LinkClosed] = asyncio.get_running_loop().create_future()
        self.silence = ""
        """Why the link was aborted, if it was for silence: then that is how it ended."""
        self.pinged = b"", 0.0
        """Payload and time of the latest ping."""
        self.round_trip: float | None = None
        # The observer's own methods: these calls are frequent.
        self.frame_received = handler.frame_received
        self.writing_paused = handler.writing_paused
        self.writing_resumed = handler.writing_resumed

    def pong_received(self, payload: bytes) -> None:
        pinged, at = self.pinged
        if payload == pinged:
            self.round_trip = time.perf_counter() - at
        self._handler.pong_received(payload)

    def link_closed(self, closed: LinkClosed) -> None:
        if self.silence:
            closed = LinkClosed(ClosedBy.NETWORK, CloseCode.ABNORMAL, self.silence)
        elif closed.by is ClosedBy.PEER:
            # A service may quote the token with which it is through.
            closed = replace(closed, reason=scrub(closed.reason, self._secrets, cut=False))
        self.ended.set_result(closed)
        self._handler.link_closed(closed)
