"""Notifications from ``tailrace serve`` itself, for devices without an MQTT broker.

A stream of events stays open (:mod:`tailrace.common.notification_stream`). What was stored is
acknowledged in the background, so that the next notification does not wait for it; what was not, or
whose acknowledgement was lost, comes again with the next stream. The service ends a stream after
some minutes, and then the next one begins at once. When it is away, or refuses, it is tried again
for ever: after a random time below a limit that doubles, up to a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ...aws import ControlAPI, Credentials, find_joined, find_running, read_profile
from ...aws.event_stream import Event, EventReader
from ...common.enrolment import Role
from ...common.notification_stream import EVENT, KEEP_ALIVE_SECONDS, STREAM_PATH
from ...control.summary import duration
from ...errors import ConfigurationError, TailraceError
from ...link.backoff import Backoff
from ..notification import MAX_PAYLOAD
from .base import Delivery, Receive

__all__ = ["ServiceSource", "service_source"]

_log = logging.getLogger("tailrace.agent")

_WAIT: Final = "ReceiveNotifications"
_ACKNOWLEDGE: Final = "AcknowledgeNotifications"
_SILENCE: Final = 2.5 * KEEP_ALIVE_SECONDS
"""Seconds without a byte after which the service, or what is in between, is gone."""
_FIRST_SECONDS: Final = 1.0
_MOST_SECONDS: Final = 60.0
_AT_ONCE: Final = 100
"""Acknowledgements in one call."""
_MOST_STORED: Final = 1000
_LONGEST_ID: Final = 128
"""Acknowledgements that wait for a call, and characters of an id: more than our service ever has.
What is not acknowledged comes again."""
_PER_SECOND: Final = 100
"""Events that are handled in a second: as many as our service keeps for a thing."""


class ServiceSource:
    """Waits at the control API of a service for the notifications of one thing.

    Args:
        endpoint: an ``https`` URL.
        ca: certificates to trust in addition to the system's.
        environment: where a web proxy is looked up.

    Raises:
        ConfigurationError: the endpoint is no URL, or the certificates cannot be read.

    Example: ``await agent.run(ServiceSource(url, "us-east-1", key, "pump-7", ca, os.environ))``
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Credentials,
        thing_name: str,
        ca: Path | None,
        environment: Mapping[str, str],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._thing_name = thing_name
        self._query = f"thing={quote(thing_name, safe='')}"
        self.ca = ca
        self._api = ControlAPI(endpoint, region, credentials, ca, environment=environment)
        self._now = now
        self._backoff = Backoff(_FIRST_SECONDS, _MOST_SECONDS, random.Random())  # noqa: S311
        self._since: float | None = None
        """When the stream began that is open."""
        self._failure = ""
        self._stored: dict[str, None] = {}
        """What is to be acknowledged, oldest first."""
        self._wake = asyncio.Event()

    @property
    def name(self) -> str:
        """The service."""
        return self._endpoint

    def status(self) -> str:
        """Return whether the service is connected, and since when, or why not."""
        if self._since is not None:
            return f"waiting at {self._endpoint} for {duration(self._now() - self._since)}"
        if not self._failure:
            return "connecting"
        return f"not connected: {self._failure}"

    async def try_once(self) -> str:
        """Begin to wait, and leave: nothing is taken. Return the name of the thing.

        Raises:
            TailraceError: the service cannot be reached, or does not let this thing wait.
        """
        try:
            async with self._api.stream(_WAIT, STREAM_PATH, self._query, _SILENCE):
                return self._thing_name
        finally:
            await self._api.close()

    async def run(self, receive: Receive) -> None:
        """Deliver notifications until cancelled."""
        acknowledging = asyncio.get_running_loop().create_task(self._acknowledge())
        try:
            while True:
                delay = await self._attempt(receive)
                await asyncio.sleep(delay)
        finally:
            acknowledging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await acknowledging
            await self._api.close()

    async def _attempt(self, receive: Receive) -> float:
        """Deliver as long as a stream lasts; return the seconds until the next one."""
        began = self._now()
        try:
            async with self._api.stream(_WAIT, STREAM_PATH, self._query, _SILENCE) as stream:
                began = self._since = self._now()
                _log.info("waiting at %s for tunnels of %s", self._endpoint, self._thing_name)
                self._failure = ""
                reader = EventReader()
                handled: deque[float] = deque(maxlen=_PER_SECOND)
                async for piece in stream.pieces():
                    for event in reader.feed(piece):
                        await self._deliver(event, receive)
                        handled.append(self._now())
                        if len(handled) == _PER_SECOND:
                            await asyncio.sleep(max(0.0, handled[0] + 1.0 - self._now()))
            failure = ""
        except ValueError as error:
            failure = str(error)
        except TailraceError as error:
            failure = str(error)
        finally:
            self._since = None
        self._backoff.link_lasted(self._now() - began)
        delay = self._backoff.next_delay()
        if failure and failure != self._failure:
            # Each attempt may fail in the same way, for days.
            _log.warning("%s; trying again", failure)
        self._failure = failure
        return delay

    async def _deliver(self, event: Event, receive: Receive) -> None:
        if event.kind != EVENT:
            return
        if len(event.data) > MAX_PAYLOAD:
            _log.warning("a notification is longer than %d bytes: ignored", MAX_PAYLOAD)
        else:
            await receive(Delivery(event.data, self._thing_name))
        if len(event.event_id) <= _LONGEST_ID and len(self._stored) < _MOST_STORED:
            self._stored[event.event_id] = None
            self._wake.set()

    async def _acknowledge(self) -> None:
        """Tell the service what was stored, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._stored:
                ids = list(self._stored)[:_AT_ONCE]
                for each in ids:
                    del self._stored[each]
                parameters = {"thingName": self._thing_name, "tokenIds": ids}
                try:
                    await self._api.call(_ACKNOWLEDGE, parameters)
                except TailraceError as error:
                    # It comes again, is known by then, and is acknowledged once more.
                    _log.warning("notifications are not acknowledged: %s", error)


def service_source(
    url: str | None, thing_name: str | None, environment: Mapping[str, str]
) -> ServiceSource:
    """Return the source for the service at ``url``, with the key that there is for it.

    That is the one that this machine has joined, that of the service that this user runs here, or
    what the environment says as for every AWS tool. Without ``url`` and ``thing_name`` they are
    those of the joined service.

    Raises:
        ConfigurationError: something is missing, or cannot be used.
    """
    joined = find_joined(environment) or find_running(environment)
    endpoint = url.rstrip("/") if url else ""
    if joined is not None:
        endpoint = endpoint or joined.api_endpoint
    if not endpoint:
        raise ConfigurationError("no service to wait at: join one with tailrace join")
    if joined is not None and joined.role is Role.DEVICE:
        thing_name = thing_name or joined.name
    if thing_name is None:
        raise ConfigurationError(f"which thing waits at {endpoint}? give --thing-name")
    if joined is not None and joined.api_endpoint == endpoint:
        return ServiceSource(
            endpoint,
            joined.region,
            joined.credentials,
            thing_name,
            joined.ca_file,
            environment,
        )
    if not environment.get("AWS_ACCESS_KEY_ID"):
        raise ConfigurationError(
            f"no key for {endpoint}: join it with tailrace join, or set AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and AWS_REGION"
        )
    found = read_profile(environment)
    if not found.region:
        raise ConfigurationError(f"no region for {endpoint}: set AWS_REGION")
    key = Credentials.from_environment(environment)
    return ServiceSource(endpoint, found.region, key, thing_name, found.ca_bundle, environment)
