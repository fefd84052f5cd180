from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from support.tunnel.engine import quiet_log
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.localproxy import events
from tailrace.localproxy.events import Connecting, Ended, Events, ProxyEvent
from tailrace.localproxy.log import TunnelLog
from tailrace.wire import Side

NO_EVENTS = ("Events", "ProxyEvent", "Subscriber")
ENDED = Ended(1000, "")


def test_every_event_of_the_module_is_a_proxy_event():
    named = {getattr(events, name) for name in events.__all__ if name not in NO_EVENTS}
    assert named == set(get_args(ProxyEvent))


@pytest.mark.parametrize("kind", get_args(ProxyEvent), ids=lambda kind: kind.__name__)
def test_events_are_frozen_and_slotted(kind: type):
    names = [field.name for field in dataclasses.fields(kind)]
    event = kind(*names)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, names[0], "changed")
    assert not hasattr(event, "__dict__")


def test_subscribers_are_told_in_the_order_they_came():
    told: list[tuple[str, ProxyEvent]] = []
    source = Events(quiet_log())
    for name in "ab":
        source.subscribe(lambda event, name=name: told.append((name, event)))
    source.emit(ENDED)
    assert told == [("a", ENDED), ("b", ENDED)]


def test_one_that_has_unsubscribed_is_told_nothing_more():
    told: list[ProxyEvent] = []
    source = Events(quiet_log())
    first = source.subscribe(told.append)
    second = source.subscribe(told.append)
    first()
    first()
    source.emit(ENDED)
    assert told == [ENDED]
    second()
    source.emit(ENDED)
    assert told == [ENDED]


def test_subscriptions_may_change_while_an_event_is_told():
    told: list[str] = []
    source = Events(quiet_log())

    def first(event: ProxyEvent) -> None:
        told.append("first")
        leave()
        source.subscribe(lambda _: told.append("late"))

    source.subscribe(first)
    leave = source.subscribe(lambda _: told.append("left"))
    source.emit(ENDED)
    assert told == ["first"]
    source.emit(Connecting("localhost:443"))
    assert told == ["first", "first", "late"]


def test_a_subscriber_that_fails_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture):
    told: list[ProxyEvent] = []
    source = Events(TunnelLog(Side.SOURCE, "localhost:443", [Secret("t0ken-of-a-tunnel")]))

    def fail(event: ProxyEvent) -> None:
        raise ValueError("t0ken-of-a-tunnel")

    source.subscribe(fail)
    source.subscribe(told.append)
    source.emit(ENDED)
    assert told == [ENDED]
    assert "A subscriber failed" in caplog.text
    assert "ValueError: <redacted>" in caplog.text


def test_a_subscriber_may_refuse_with_an_error_of_this_package():
    source = Events(quiet_log())

    def refuse(event: ProxyEvent) -> None:
        raise ConfigurationError("cannot write the ready file")

    source.subscribe(refuse)
    with pytest.raises(ConfigurationError, match="ready file"):
        source.emit(ENDED)
