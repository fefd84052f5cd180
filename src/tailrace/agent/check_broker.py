"""Checks of the way in over MQTT: certificate, broker, client id and policy, subscription.

The client id is the agent's own, since policies are made for it. A broker lets one client at a time
have an id, so an agent that runs would be thrown out: the steps that connect are left out then,
unless they are asked for. The session that the broker keeps stays as it is: it is not made anew,
and no message is acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar, cast

from ..checks.findings import Finding, failed, ok, skipped, warning
from ..checks.machine import check_certificate
from ..checks.runner import Check
from ..checks.server import Server, path_checks
from ..errors import TailraceError
from ..mqtt.connection import REACH_TIMEOUT, TLS_TIMEOUT, Connection, open_connection
from ..mqtt.errors import BrokerError, BrokerFault
from ..mqtt.session import Accepted, Event, Received, Subscribed
from ..mqtt.verdicts import remedy, takeover_verdict
from .policy import aws_policy, mosquitto_acl, region_of_endpoint
from .sources.mqtt import MqttSourceSettings

__all__ = ["BrokerCheckSettings", "broker_checks"]

_ARRIVES: Final = 5.0
"""Seconds for a notification to come from the service over the broker."""
_STAYS: Final = 2.0
"""Seconds in which another client with the same id would be back."""

E = TypeVar("E", bound=Event)


class _Seen(Exception):
    """Ends the reading of events with the one that was waited for, unacknowledged."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event


@dataclass(frozen=True, slots=True)
class BrokerCheckSettings:
    """What the checks are told of the agent."""

    source: MqttSourceSettings
    """As the agent has it."""
    account: str | None = None
    """Number of the AWS account, for the policy that is shown; ``None``: not known."""
    send_test: Callable[[], Awaitable[None]] | None = None
    """Has the service send the thing a notification; ``None``: the service is not known."""
    busy: str = ""
    """Why the broker is not to be connected to, such as an agent that runs; "" if it is."""


def broker_checks(settings: BrokerCheckSettings) -> list[Check]:
    """Return the steps, in order."""
    source = settings.source
    broker, steps = source.broker, _Steps(settings)
    checks = [Check("topic", steps.check_topic)]
    needs: tuple[str, ...] = ()
    if broker.tls is not None and broker.tls.certificate is not None:
        needs = ("certificate",)
        run = partial(check_certificate, broker.tls.certificate, broker.tls.key)
        checks.append(Check("certificate", run))
    server = Server(
        "broker",
        broker.endpoint(REACH_TIMEOUT if broker.tls is None else TLS_TIMEOUT),
        is_encrypted=broker.tls is not None,
        web_proxy=source.web_proxy,
        address_option="--endpoint" if broker.is_aws else "--broker",
        trust_option="--ca FILE",
    )
    path = path_checks(server)
    # A broken certificate spoils TLS, and nothing before it.
    tls = [Check(each.name, each.run, (*each.needs, *needs)) for each in path[-1:]]
    checks += [*path[:-1], *(tls if broker.tls is not None else path[-1:])]
    last = checks[-1].name
    return [
        *checks,
        Check("client id", steps.check_client_id, (last,)),
        Check("subscription", steps.check_subscription, ("client id",)),
    ]


class _Steps:
    """The steps on one connection."""

    def __init__(self, settings: BrokerCheckSettings) -> None:
        self._settings = settings
        self._source = settings.source
        self._session = settings.source.session()
        self._connection: Connection | None = None

    async def check_topic(self) -> Finding:
        """Say what the agent listens for."""
        return ok(f"{self._session.topic} (thing {self._source.thing_name})")

    async def check_client_id(self) -> Finding:
        """Connect, and see whether the broker takes this client in."""
        if self._settings.busy:
            return skipped(self._settings.busy, "stop it first, or add --take-over")
        source = self._source
        try:
            self._connection = await open_connection(source.broker, self._session, source.web_proxy)
            accepted = await self._event(Accepted)
        except BrokerError as error:
            await self._close()
            return self._failed(error)
        kept = "there was a session" if accepted.session_present else "a new session"
        return ok(f"{self._session.client_id} is accepted, {kept}")

    async def check_subscription(self) -> Finding:
        """Subscribe, and see whether that lasts."""
        if self._connection is None:
            return skipped(self._settings.busy)
        try:
            return await self._subscribe()
        except BrokerError as error:
            return self._failed(error)
        finally:
            await self._close()

    async def _subscribe(self) -> Finding:
        event = await self._event(Subscribed, Received)
        if isinstance(event, Subscribed):
            if self._settings.send_test is not None:
                return await self._prove(self._settings.send_test)
            try:
                async with asyncio.timeout(_STAYS):
                    await self._event(Received)
            except TimeoutError:
                return self._granted(event.qos)
            except BrokerError as error:
                fix = takeover_verdict(self._source.broker, self._session)
                return failed(f"granted, but then {error}", fix)
        return ok("a notification that was kept for the agent has come; it is still kept")

    async def _prove(self, send_test: Callable[[], Awaitable[None]]) -> Finding:
        """See whether a notification comes that the service has sent."""
        thing_name, topic = self._source.thing_name, cast(str, self._session.topic)
        try:
            await send_test()
        except TailraceError as error:
            return warning(
                f"granted; the service could not be asked for a test: {error}", error.advice
            )
        try:
            async with asyncio.timeout(_ARRIVES):
                await self._event(Received)
        except TimeoutError:
            return failed(
                f"granted, but a notification that the service sent has not come within"
                f" {_ARRIVES:g} s",
                "let the service reach this broker (--mqtt-url), with the same --notify-topic, and"
                f" the broker deliver the topic to {thing_name}",
                mosquitto_acl(self._source.broker.user or self._session.client_id, topic),
            )
        return ok("proven: a notification that the service sent has come")

    def _granted(self, qos: int) -> Finding:
        if qos == 0:
            return warning(
                "granted at QoS 0: the broker keeps no notification while the agent is away",
                "let the broker grant QoS 1",
            )
        if self._source.broker.is_aws:
            return ok("granted; AWS IoT Core ends the connection where the policy forbids it")
        return warning(
            "granted, which proves nothing: some brokers, mosquitto among them, also grant what"
            " they will not deliver",
            f"open a tunnel for {self._source.thing_name}, and look at the log of the agent",
        )

    def _failed(self, error: BrokerError) -> Finding:
        broker, session = self._source.broker, self._session
        fix = remedy(error.fault, broker, session) or ""
        is_policy = error.fault in (
            BrokerFault.CLOSED_EARLY,
            BrokerFault.REFUSED,
            BrokerFault.SUBSCRIPTION_REFUSED,
        )
        example = ""
        if is_policy and broker.is_aws:
            topic = cast(str, session.topic)
            region, account = region_of_endpoint(broker.host), self._settings.account
            example = aws_policy(region, account, session.client_id, topic)
            fix += ". Attach this policy to the certificate" if fix else "Attach this policy"
            if account is None:
                fix += ", with the number of the account (or give --account)"
        elif error.fault is BrokerFault.SUBSCRIPTION_REFUSED:
            example = mosquitto_acl(broker.user or session.client_id, cast(str, session.topic))
        return failed(str(error), fix, example)

    async def _event(self, *kinds: type[E]) -> E:
        """Return the first event of these kinds.

        Raises:
            BrokerError: the connection has ended before.
        """
        assert self._connection is not None

        async def handle(event: Event) -> None:
            if isinstance(event, kinds):
                raise _Seen(event)

        try:
            await self._connection.run(handle)
        except _Seen as seen:
            return cast(E, seen.event)

    async def _close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()
