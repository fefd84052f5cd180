"""Notifications over MQTT, from a broker that may be away for days.

A connection is tried for as long as the agent runs. Delays grow with each failure, and start afresh
only when a connection has lasted a minute: two agents with one client id throw each other out, and
would do so every second for ever. The same goes for what is logged: each kind of event once, and
again after ten minutes.

The broker keeps what it could not deliver at QoS 1 (a persistent session), so a notification that
is sent while the agent is away, or that could not be stored, comes with the next connection. There
is one danger in that: what breaks the rules of MQTT would come back with every connection, too.
After two violations in a row the broker is told to forget what it has kept.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ...common.escaping import cut, escape
from ...common.network_errors import network_error_text
from ...control.summary import duration
from ...errors import ConfigurationError, TailraceError
from ...link.backoff import SETTLED, Backoff
from ...link.proxy.settings import WebProxy
from ...mqtt.codec import MAX_PAYLOAD
from ...mqtt.connection import open_connection
from ...mqtt.errors import BrokerError, BrokerFault
from ...mqtt.session import Accepted, Dropped, Event, Received, SessionSettings, Subscribed
from ...mqtt.settings import BrokerSettings
from ...mqtt.topics import AWS_TOPICS, TopicTemplate
from ...mqtt.verdicts import is_clock_wrong, takeover_verdict, verdict
from .base import Delivery, Receive

__all__ = ["MqttSource", "MqttSourceSettings"]

_log = logging.getLogger(__name__)

_MIN_DELAY: Final = 1.0
"""Seconds between two CONNECT: AWS IoT Core takes one a second of a client id."""
_FIRST_DELAY: Final = 1.0
_MAX_DELAY: Final = 60.0
"""Seconds by which the least delay is exceeded at random, after the first failure and at most."""
_BRIEF: Final = 10.0
"""Seconds: a connection that ends sooner after CONNACK was ended on purpose."""
_BRIEF_IN_A_ROW: Final = 3
_VIOLATIONS_IN_A_ROW: Final = 2
_REPEAT: Final = 600.0
"""Seconds after which the same kind of event is logged again."""
_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class MqttSourceSettings:
    """Which broker, and who the agent is there."""

    broker: BrokerSettings
    thing_name: str
    client_id: str = ""
    """"" is the name of the thing, which policies of AWS IoT Core are made for."""
    topics: TopicTemplate = AWS_TOPICS
    keep_alive: int = 45
    """Seconds, 30-1200 on AWS IoT Core, and not more than 65535."""
    web_proxy: WebProxy | None = None

    def session(self, clean_session: bool = False) -> SessionSettings:
        """Return how the agent presents itself."""
        return SessionSettings(
            self.client_id or self.thing_name,
            self.topics.topic(self.thing_name),
            keep_alive=self.keep_alive,
            clean_session=clean_session,
        )


class _NotStored(Exception):
    """The agent could not store a notification."""


class _Kind(Enum):
    """What is logged once in a while: with :class:`BrokerFault` all that there is."""

    CONNECTED = "connected"
    CLOCK = "clock"
    TAKEOVER = "takeover"
    CONFIGURATION = "configuration"
    NOT_STORED = "not stored"
    QOS_0 = "QoS 0"
    TOO_LARGE = "too large"
    OTHER_TOPIC = "other topic"


class _Reports:
    """Logs each kind of event once, and again after a while."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged: dict[_Kind | BrokerFault, float] = {}
        self.last: _Kind | BrokerFault | None = None
        """Kind of what was logged last, and not for debugging only."""

    def say(self, level: int, kind: _Kind | BrokerFault, text: str) -> None:
        """Log ``text``, for debugging only if its kind was logged lately."""
        now = self._clock()
        last = self._logged.get(kind)
        if last is None or now - last >= _REPEAT:
            self._logged[kind] = now
            self.last = kind
        else:
            level = logging.DEBUG
        _log.log(level, "%s", text)

    def forget(self) -> None:
        """Log every kind again: things went well for a while."""
        self._logged.clear()


@dataclass(slots=True)
class _Failures:
    """What went wrong, in a row; a connection that lasts ends the row."""

    brief: int = 0
    violations: int = 0


class MqttSource:
    """Brings the notifications of one thing from a broker."""

    def __init__(
        self,
        settings: MqttSourceSettings,
        *,
        rng: random.Random | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._wall_clock = wall_clock
        self._backoff = Backoff(_FIRST_DELAY, _MAX_DELAY, rng or random.Random())  # noqa: S311
        self._reports = _Reports(time.monotonic)
        self._failures = _Failures()
        self._accepted_at: float | None = None
        self._subscribed_at: float | None = None
        self._trouble = ""
        """What the last attempt came to."""
        self._again_at: float | None = None
        self._settling: asyncio.TimerHandle | None = None
        """Set until a connection has lasted."""
        self._clock: Callable[[], float] = time.monotonic

    @property
    def name(self) -> str:
        """The broker's address."""
        return f"broker {self._settings.broker}"

    def status(self) -> str:
        """Return what it is doing."""
        where, now = self._settings.broker.authority, self._clock()
        if self._subscribed_at is not None:
            return f"connected to {where} for {duration(now - self._subscribed_at)}"
        if not self._trouble:
            return f"connecting to {where}"
        again = "now" if self._again_at is None else f"in {duration(self._again_at - now)}"
        return f"not connected to {where}: {self._trouble}; again {again}"

    async def run(self, receive: Receive) -> None:
        """Deliver notifications until cancelled; no failure of broker or network ends it."""
        self._clock = asyncio.get_running_loop().time
        self._reports = _Reports(self._clock)
        try:
            while True:
                await self._run_once(receive)
                delay = _MIN_DELAY + self._backoff.next_delay()
                self._again_at = self._clock() + delay
                await asyncio.sleep(delay)
                self._again_at = None
        finally:
            self._subscribed_at = None
            if self._settling is not None:
                self._settling.cancel()

    async def _run_once(self, receive: Receive) -> None:
        """Connect, and deliver until that fails."""
        forget = self._failures.violations >= _VIOLATIONS_IN_A_ROW
        session = self._settings.session(forget)

        async def handle(event: Event) -> None:
            await self._handle(event, receive)

        self._accepted_at = self._subscribed_at = None
        try:
            connection = await open_connection(
                self._settings.broker, session, self._settings.web_proxy
            )
            try:
                await connection.run(handle)
            finally:
                await connection.close()
        except BrokerError as error:
            self._failed(*self._judge(error, session))
        except ConfigurationError as error:
            self._failed(_Kind.CONFIGURATION, str(error))
        except _NotStored as error:
            self._failed(_Kind.NOT_STORED, str(error))

    # -- while it is connected -----------------------------------------------------------------

    async def _handle(self, event: Event, receive: Receive) -> None:
        match event:
            case Accepted():
                self._accepted_at = self._clock()
            case Subscribed(qos):
                self._subscribed(qos)
            case Received(message):
                thing_name = self._settings.topics.thing_name(message.topic)
                if thing_name is None:
                    shown = escape(cut(message.topic, _SHOWN))
                    text = f"a message on {shown} is ignored: it is not the topic of a thing"
                    self._reports.say(logging.WARNING, _Kind.OTHER_TOPIC, text)
                    return
                await self._deliver(Delivery(message.payload, thing_name, message.retain), receive)
            case Dropped(message):
                text = (
                    f"a message of {message.size} bytes is ignored: a notification has at most"
                    f" {MAX_PAYLOAD}"
                )
                self._reports.say(logging.WARNING, _Kind.TOO_LARGE, text)

    def _subscribed(self, qos: int) -> None:
        self._subscribed_at = self._clock()
        self._trouble = ""
        settings = self._settings
        text = f"connected to {settings.broker}, waiting for notifications of {settings.thing_name}"
        self._reports.say(logging.INFO, _Kind.CONNECTED, text)
        self._settling = asyncio.get_running_loop().call_later(SETTLED, self._settled, text)
        if qos == 0:
            text = "the broker grants QoS 0 only: it keeps no notification while it is not reached"
            self._reports.say(logging.WARNING, _Kind.QOS_0, text)

    def _settled(self, text: str) -> None:
        """Called when a connection has lasted; what is logged last must not be a failure."""
        last = self._reports.last
        self._reports.forget()
        if last is not _Kind.CONNECTED:
            self._reports.say(logging.INFO, _Kind.CONNECTED, text)

    async def _deliver(self, delivery: Delivery, receive: Receive) -> None:
        try:
            await receive(delivery)
        except Exception as error:
            if isinstance(error, OSError):
                text = network_error_text(error)
            elif isinstance(error, TailraceError):
                text = str(error)
            else:  # a bug, which is not to make the agent deaf
                text = type(error).__name__
                _log.error("a notification could not be handled", exc_info=error)
            raise _NotStored(
                f"a notification could not be stored ({text}); the broker is to send it again"
            ) from None

    # -- when it has failed --------------------------------------------------------------------

    def _judge(
        self, error: BrokerError, session: SessionSettings
    ) -> tuple[_Kind | BrokerFault, str]:
        """Return kind and text of a failure."""
        broker, now = self._settings.broker, self._wall_clock()
        text = verdict(error, broker, session, now)
        if error.fault is BrokerFault.VIOLATION and self._accepted_at is not None:
            self._failures.violations += 1
            if self._failures.violations >= _VIOLATIONS_IN_A_ROW:
                text += "; it is to forget what it has kept for this client"
        if is_clock_wrong(error, now):
            return _Kind.CLOCK, text
        accepted_at = self._accepted_at
        if accepted_at is not None and error.fault in (
            BrokerFault.LOST,
            BrokerFault.SUBSCRIPTION_REFUSED,
        ):
            is_brief = self._clock() - accepted_at < _BRIEF
            self._failures.brief = self._failures.brief + 1 if is_brief else 0
            if self._failures.brief >= _BRIEF_IN_A_ROW:
                return _Kind.TAKEOVER, f"{error}: {takeover_verdict(broker, session)}"
        return error.fault, text

    def _failed(self, kind: _Kind | BrokerFault, text: str) -> None:
        if self._settling is not None:
            self._settling.cancel()
        was_up = 0.0 if self._subscribed_at is None else self._clock() - self._subscribed_at
        self._subscribed_at = None
        self._trouble = text
        if was_up >= SETTLED:
            self._backoff.start_afresh()
            self._failures = _Failures()
        broker = self._settings.broker
        self._reports.say(logging.WARNING, kind, f"{broker}: {text}; trying again")
