"""The agent: notifications are judged, stored, and their tunnels served."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ..common.escaping import cut
from ..common.log_floods import flood_kind
from ..common.periodic import every
from ..common.secret import Secret
from ..errors import (
    ConfigurationError,
    LocalProtocolError,
    NotificationIgnored,
    NotificationNotStored,
)
from ..library import Application, ServiceMap, ServiceRule, TunnelStatus, endpoint_in
from ..library.settings import RESUME_TIMEOUT
from .kill_switch import KillSwitch
from .notification import Notification, parse_notification
from .served_tunnel import DestinationSettings, destination
from .sources.base import Delivery, NotificationSource
from .state import AgentState, KeptTunnel
from .tunnels import MAX_TUNNELS, ServedStatus, Tunnels

__all__ = ["Agent", "AgentStatus", "status_text"]

_SWITCH_PERIOD: Final = 1.0
"""Seconds between two looks at the kill switch."""
_SOURCES_PERIOD: Final = 1.0
"""Seconds between two looks at the ways in."""
_HEARTBEAT_PERIOD: Final = 3600.0
"""Seconds between two lines that say that all is well, or what is not."""
_SOURCE_DELAY: Final = 10.0
"""Seconds after which a way in that has failed is tried again."""
_RATE_PERIOD: Final = 100.0
"""Seconds in which at most 100 tunnels start, or five for each that there may be."""
_LEAST_RATE: Final = 100
_SHOWN: Final = 200
"""Characters of a list of service ids in a text."""
_DISABLED: Final = "the agent is disabled"
_UNUSED_TOKEN: Final = Secret("none")
_UNUSED_REGION: Final = "us-east-1"

_log = logging.getLogger("tailrace.agent")


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What an agent is doing.

    Example: ``print(len(agent.status().tunnels), "tunnels")``
    """

    tunnels: tuple[ServedStatus, ...]
    max_tunnels: int
    sources: Mapping[str, str]
    """Ways in which notifications come, and what each is doing."""
    kill_switch: str
    """``off``, ``no new tunnels`` or ``no tunnels``."""
    since: float
    """When the agent started, in seconds since the epoch."""


class Agent:
    """Serves the tunnels of the notifications that it receives; entered once.

    Each tunnel gets a destination in this process, which lives until the tunnel is closed or
    expires. The same notification counts once, one with a new token of a tunnel that is up goes
    to that one, and what cannot be served is logged, with what to do about it, to the logger
    ``tailrace.agent``; no record shows a token. Leaving ends all destinations in order; with a
    ``state_dir``, the next agent serves their tunnels again.

    Everything belongs to the event loop of the task that enters.

    Example::

        async with tailrace.Agent({"SSH": 22}, region="eu-west-1") as agent:
            async for message in my_mqtt_client.messages:
                await agent.receive(message.payload)
    """

    def __init__(
        self,
        services: Mapping[str, Application | ServiceRule] | ServiceMap,
        *,
        thing_name: str | None = None,
        region: str | None = None,
        endpoint: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        max_tunnels: int = MAX_TUNNELS,
        resume_timeout: float = RESUME_TIMEOUT,
        state_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Prepare; nothing is opened before the agent is entered.

        Args:
            services: what serves the connections of each service id: a :class:`ServiceMap`,
                which may change, or what one is made of. What is not in it is refused.
            thing_name: notifications for other things are ignored; ``None``: none are.
            region: AWS region of tunnels whose notifications name none.
            endpoint: ``"HOST"`` or ``"HOST:PORT"`` of the data endpoint of all tunnels, instead
                of that of the region of each. Without either, the environment may say:
                ``AWSIOT_TUNNEL_ENDPOINT`` or ``AWSIOT_TUNNEL_REGION``.
            ca: file or directory of PEM certificates to trust besides the system's.
            max_tunnels: tunnels that are served at once, at least 1. A rotation whose tunnel is
                not told may come beyond it for 30 seconds.
            resume_timeout: as for :meth:`Tunnel.source`.
            state_dir: directory in which tunnels are kept over restarts, for one agent at a time;
                made with mode 0700. ``None``: they are not kept.

        Raises:
            ConfigurationError: an argument is not valid.
        """
        if max_tunnels < 1:
            raise ConfigurationError(f"max_tunnels={max_tunnels} is not positive")
        self._thing_name = thing_name
        self._max_tunnels = max_tunnels
        if region is None and endpoint is None:
            region, endpoint = endpoint_in(os.environ)
        self._settings = DestinationSettings(
            services=services if isinstance(services, ServiceMap) else ServiceMap(services),
            region=region,
            endpoint=endpoint,
            ca=None if ca is None else Path(ca),
            resume_timeout=resume_timeout,
        )
        self._check_settings()
        self._state = AgentState(None if state_dir is None else Path(state_dir), time.time)
        self._tunnels = Tunnels(self._settings, max_tunnels, self._state, time.time, self._changed)
        self._sources: list[NotificationSource] = []
        self._sources_doing: tuple[str, ...] = ()
        self._stack = AsyncExitStack()
        self._receiving = asyncio.Lock()
        self._started: deque[float] = deque(maxlen=max(_LEAST_RATE, 5 * max_tunnels))
        """When the latest tunnels started, by the clock of the loop."""
        self._entered = False
        self._since = 0.0
        self._switch = KillSwitch.OFF
        self._subscribers: dict[object, Callable[[], None]] = {}

    async def __aenter__(self) -> Self:
        """Lock the state directory, and serve the tunnels that are kept in it.

        Raises:
            ConfigurationError: the state directory cannot be used, or another agent uses it.
        """
        if self._entered:
            raise LocalProtocolError("an agent is entered once; make another one")
        self._entered = True
        self._since = time.time()
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            kept = stack.enter_context(self._state.opened())
            stack.push_async_callback(self._tunnels.close)
            await self._resume(kept)
            if self._state.is_durable:
                stack.enter_context(every(loop, _SWITCH_PERIOD, self._look_at_switch))
            stack.enter_context(every(loop, _SOURCES_PERIOD, self._look_at_sources))
            stack.enter_context(every(loop, _HEARTBEAT_PERIOD, self.log_status))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all destinations in order; takes at most about 6 seconds."""
        await self._stack.aclose()

    async def receive(
        self,
        payload: bytes | str,
        *,
        thing_name: str | None = None,
        retained: bool = False,
    ) -> Notification | None:
        """Store a notification and serve its tunnel; return it, or ``None`` if it is ignored.

        What is ignored is logged with the reason; a payload that holds no notification is. Returns
        before the tunnel is connected. Acknowledge the message when this has returned: it is
        stored by then.

        Args:
            payload: the message as it came, JSON.
            thing_name: the thing of its topic, if it has one.
            retained: whether the MQTT broker had kept it for later subscribers.

        Raises:
            NotificationNotStored: it cannot be stored, and was not acted upon.

        Example: ``await agent.receive(message.payload)``
        """
        if isinstance(payload, str):
            payload = payload.encode(errors="surrogatepass")
        async with self._receiving:
            try:
                return await self._receive(Delivery(payload, thing_name, retained))
            except NotificationIgnored as error:
                level = logging.INFO if error.expected else logging.WARNING
                text = "a notification is ignored: %s"
                # What stands behind a colon is the sender's choice.
                _log.log(level, text, error, extra=flood_kind(str(error).partition(":")[0]))
                return None
            except NotificationNotStored as error:
                _log.error("%s", error)
                raise

    async def run(self, *sources: NotificationSource) -> None:
        """Receive from ways in which notifications come; return when all have ended.

        Most never do; when they have, so have the tunnels. May be cancelled.

        Example: ``await agent.run(tailrace.FileSource("/run/tunnel.json"))``
        """
        self._sources += sources
        async with asyncio.TaskGroup() as group:
            for source in sources:
                group.create_task(self._run(source))
        await self._tunnels.wait_idle()

    def status(self) -> AgentStatus:
        """Return what the agent is doing. Never waits.

        Example: ``print(agent.status().sources)``
        """
        return AgentStatus(
            tunnels=self._tunnels.status(),
            max_tunnels=self._max_tunnels,
            sources={source.name: source.status() for source in self._sources},
            kill_switch=self._switch.value,
            since=self._since,
        )

    def destinations(self) -> Mapping[str, TunnelStatus]:
        """Return the status of each tunnel's destination, by the tunnel's name. Never waits.

        One that has failed, and is yet to be made anew, is missing.

        Example: ``for name, tunnel in agent.destinations().items(): print(name, tunnel.link)``
        """
        return self._tunnels.destinations()

    def log_status(self) -> None:
        """Log in one line what the agent is doing; it does so itself once an hour.

        Example: ``loop.add_signal_handler(signal.SIGUSR1, agent.log_status)``
        """
        _log.info("status: %s", status_text(self.status()))

    def subscribe(self, subscriber: Callable[[], None]) -> Callable[[], None]:
        """Call ``subscriber`` when :meth:`status` tells something new; return what ends that.

        Example: ``unsubscribe = agent.subscribe(lambda: print(agent.status()))``
        """
        key = object()
        self._subscribers[key] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    # -- receiving ----------------------------------------------------------------------------

    async def _run(self, source: NotificationSource) -> None:
        async def receive(delivery: Delivery) -> None:
            await self.receive(
                delivery.payload, thing_name=delivery.thing_name, retained=delivery.retained
            )

        while True:
            try:
                await source.run(receive)
                break
            except Exception as error:
                # A bug there must not end the agent.
                _log.error("%s failed", source.name, exc_info=error)
                await asyncio.sleep(_SOURCE_DELAY)
        _log.info("%s has ended; no more notifications come from there", source.name)

    async def _receive(self, delivery: Delivery) -> Notification | None:
        if self._is_for_another(delivery.thing_name):
            raise NotificationIgnored("it is for another thing")
        notification = parse_notification(delivery.payload)
        kept = KeptTunnel(notification, Secret(str(uuid.uuid4())), time.time())
        if self._state.has_seen(kept.digest):
            _log.debug("tunnel %s: notified again", kept.label)
            return None
        for warning in notification.warnings:
            text = "tunnel %s: odd notification: %s"
            _log.warning(text, kept.label, warning, extra=flood_kind(warning))
        if delivery.retained:
            _log.warning(
                "tunnel %s: the MQTT broker keeps the notification, and with it the token: "
                "publish it without the retain flag",
                kept.label,
            )
        self._judge(kept)
        kept = self._tunnels.admit(kept)
        self._check_rate()
        await self._state.keep(kept)
        if self._state.kill_switch is not KillSwitch.OFF:
            # Set while it was stored: what ends open tunnels has not seen this one.
            await self._state.forget(kept)
            raise NotificationIgnored(_DISABLED)
        self._tunnels.start(kept)
        return notification

    def _is_for_another(self, thing_name: str | None) -> bool:
        if thing_name is None or self._thing_name is None:
            return False
        # RabbitMQ exchanges dots and slashes.
        return thing_name.replace(".", "/") != self._thing_name.replace(".", "/")

    def _judge(self, kept: KeptTunnel) -> None:
        """Return if a tunnel may be served.

        Raises:
            NotificationIgnored: it may not; the text says why.
        """
        notification, settings = kept.notification, self._settings
        if self._state.kill_switch is not KillSwitch.OFF:
            raise NotificationIgnored(_DISABLED)
        if kept.lifetime_left(time.time()) <= 0:
            raise NotificationIgnored("its tunnel has expired")
        if settings.endpoint is None and notification.region is None and settings.region is None:
            raise NotificationIgnored("it names no region, and the agent has none")
        # A rule for all services is for a tunnel without any, too.
        services = notification.services or ("",)
        if not any(map(settings.services.find, services)):
            names = _listed(notification.services)
            reason = f"no service of it is mapped: {names}" if names else "it names no services"
            raise NotificationIgnored(reason)

    def _check_rate(self) -> None:
        """Count a tunnel that is to be stored and started.

        Tokens that the service refuses make room for others at once: without a bound, anybody who
        may publish at the broker could wear out the flash memory, and have the service called.

        Raises:
            NotificationIgnored: there were too many.
        """
        now = asyncio.get_running_loop().time()
        started = self._started
        if len(started) == started.maxlen and now - started[0] < _RATE_PERIOD:
            raise NotificationIgnored(
                f"there were {started.maxlen} tunnels in the last {_RATE_PERIOD:g} s"
            )
        started.append(now)

    def _check_settings(self) -> None:
        """Raise what every destination would."""
        region = self._settings.region or _UNUSED_REGION
        nothing = KeptTunnel(Notification(_UNUSED_TOKEN, region), Secret("c" * 32), 0)
        destination(nothing, self._settings)

    # -- what changes ---------------------------------------------------------------------------

    async def _resume(self, kept: list[KeptTunnel]) -> None:
        self._switch = self._state.kill_switch
        for each in kept:
            if self._switch is KillSwitch.NONE:
                reason = _DISABLED
            elif each.lifetime_left(time.time()) <= 0:
                reason = "it has expired"
            else:
                self._tunnels.start(each, again=True)
                continue
            _log.info("tunnel %s: not served again: %s", each.label, reason)
            await self._state.forget(each)

    def _look_at_switch(self) -> None:
        switch = self._state.kill_switch
        if switch is self._switch:
            return
        self._switch = switch
        _log.warning("kill switch: %s", switch.value)
        if switch is KillSwitch.NONE:
            self._tunnels.end_all(_DISABLED)
        self._changed()

    def _look_at_sources(self) -> None:
        # The first word is what it is doing: how long, and why, is behind it.
        doing = tuple(source.status().partition(" ")[0] for source in self._sources)
        if doing != self._sources_doing:
            self._sources_doing = doing
            self._changed()

    def _changed(self) -> None:
        for subscriber in list(self._subscribers.values()):
            subscriber()


def status_text(status: AgentStatus) -> str:
    """Return a status in one line."""
    up = sum(each.phase == "up" for each in status.tunnels)
    parts = [f"{up} of {len(status.tunnels)} tunnels up, {status.max_tunnels} allowed"]
    parts += [f"{name}: {text}" for name, text in status.sources.items()]
    if status.kill_switch != KillSwitch.OFF.value:
        parts.append(f"disabled: {status.kill_switch}")
    return "; ".join(parts)


def _listed(service_ids: Iterable[str]) -> str:
    return cut(", ".join(service_ids), _SHOWN)
