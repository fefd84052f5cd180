"""Notify over MQTT 3.1.1."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

from ...errors import ConfigurationError, TailraceError
from ...mqtt.connection import Connection, open_connection
from ...mqtt.errors import BrokerError, BrokerFault
from ...mqtt.session import Accepted, Acknowledged, Event, SessionSettings
from ...mqtt.settings import BrokerSettings
from ...mqtt.verdicts import verdict
from .base import Notification, NotifierDown, NotifyFailed

__all__ = ["MqttNotifier"]

_KEEP_ALIVE: Final = 15
"""Seconds between pings of an idle connection."""
_TIMEOUT: Final = 10.0
"""Seconds for the broker to answer a connect or a publish."""


class MqttNotifier:
    """Publishes at QoS 1 over one connection, which is opened again after it was lost."""

    def __init__(self, broker: BrokerSettings, timeout: float = _TIMEOUT) -> None:
        self._broker = broker
        self._timeout = timeout
        self._publisher: _Publisher | None = None
        self._connecting = asyncio.Lock()

    @property
    def name(self) -> str:
        """The broker's address."""
        return str(self._broker)

    async def deliver(self, notification: Notification) -> None:
        """Publish a notification and wait for the broker to acknowledge it.

        Raises:
            NotifierDown: the broker cannot be reached.
            NotifyFailed: it does not answer in time, or the connection was lost.
        """
        publisher = await self._connected()
        try:
            await publisher.publish(notification.topic, notification.payload())
        except TailraceError as error:
            # Also for others that are under way, whose answers may be lost as well.
            if self._publisher is publisher:
                await self.close()
            raise NotifyFailed(str(error)) from None

    async def _connected(self) -> _Publisher:
        async with self._connecting:
            if self._publisher is None or self._publisher.lost:
                await self.close()
                # A broker takes up to 23 letters and digits from everyone (MQTT 3.1.1 section
                # 3.1.3.1).
                client_id = f"tailrace{secrets.token_hex(7)}"
                settings = SessionSettings(
                    client_id, keep_alive=_KEEP_ALIVE, answer_timeout=self._timeout
                )
                try:
                    self._publisher = await _Publisher.open(self._broker, settings, self._timeout)
                except BrokerError as error:
                    text = verdict(error, self._broker, settings, time.time())
                    raise NotifierDown(text) from None
                except ConfigurationError as error:
                    raise NotifierDown(str(error)) from None
            return self._publisher

    async def close(self) -> None:
        """Disconnect from the broker."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()


class _Publisher:
    """One connection to the broker, and the task that hears what it says."""

    def __init__(self, connection: Connection, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        self._connection = connection
        self._timeout = timeout
        self._accepted: asyncio.Future[None] = loop.create_future()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        """What is published and not acknowledged, by packet id."""
        self._listener = loop.create_task(self._listen())

    @classmethod
    async def open(
        cls, broker: BrokerSettings, settings: SessionSettings, timeout: float
    ) -> _Publisher:
        publisher = cls(await open_connection(broker, settings), timeout)
        try:
            await publisher._accepted
        except BaseException:
            await publisher.close()
            raise
        return publisher

    @property
    def lost(self) -> bool:
        """Whether the connection is lost."""
        return self._listener.done()

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 1; return when it is acknowledged.

        Raises:
            BrokerError: the connection is lost.
            NotifyFailed: the broker does not answer in time.
        """
        packet_id = self._connection.publish(topic, payload)
        answer = self._waiting[packet_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timeout):
                await answer
        except TimeoutError:
            raise NotifyFailed(f"no answer to PUBLISH within {self._timeout:g} s") from None
        finally:
            del self._waiting[packet_id]

    async def close(self) -> None:
        """Disconnect; what is not acknowledged has failed."""
        self._listener.cancel()
        await asyncio.wait([self._listener])
        self._fail(BrokerError(BrokerFault.LOST, "the connection was closed"))
        await self._connection.close()

    async def _listen(self) -> None:
        try:
            await self._connection.run(self._hear)
        except BrokerError as error:
            self._fail(error)

    def _fail(self, error: BrokerError) -> None:
        for each in (self._accepted, *self._waiting.values()):
            if not each.done():
                each.set_exception(error)

    async def _hear(self, event: Event) -> None:
        match event:
            case Accepted():
                answer: asyncio.Future[None] | None = self._accepted
            case Acknowledged(packet_id):
                answer = self._waiting.get(packet_id)
            case _:
                return
        if answer is not None and not answer.done():
            answer.set_result(None)
