"""Notifications of things that wait at the service."""

from __future__ import annotations

import pytest

from tailrace.common.secret import Secret
from tailrace.service.notify.base import Notification
from tailrace.service.notify.mailbox import Mailbox, Waiter


def notification(tunnel_id: str, thing: str = "lamp", key: str = "AK") -> Notification:
    return Notification(
        tunnel_id=tunnel_id,
        key_id=key,
        thing_name=thing,
        topic=f"things/{thing}",
        access_token=Secret(f"token of {tunnel_id}"),
        region="us-east-1",
        services=("SSH",),
        expires_at=9.0,
    )


def waiter(thing: str = "lamp") -> Waiter:
    return Waiter(thing, "AK", "192.0.2.1", 1.0)


def taken(mailbox: Mailbox, waiting: Waiter) -> list[str]:
    found = []
    while (each := mailbox.next(waiting)) is not None:
        found.append(each.tunnel_id)
    return found


def test_what_was_not_acknowledged_comes_again() -> None:
    mailbox = Mailbox()
    for tunnel_id in ("a", "b", "c"):
        mailbox.put(notification(tunnel_id))
    mailbox.put(notification("d", "pump"))
    first, second = waiter(), waiter()
    assert taken(mailbox, first) == ["a", "b", "c"]
    mailbox.acknowledge("lamp", {notification("b").token_id, "unknown"})
    # Not those of others.
    mailbox.acknowledge("lamp", {notification("d", "pump").token_id})
    assert taken(mailbox, first) == []
    assert taken(mailbox, second) == ["a", "c"]
    assert (mailbox.delivered, len(mailbox)) == (1, 3)
    assert (mailbox.pending("lamp"), mailbox.pending("none")) == (2, 0)


def test_a_newer_token_replaces_the_older() -> None:
    mailbox, waiting = Mailbox(), waiter()
    mailbox.put(notification("a"))
    mailbox.put(notification("b"))
    assert taken(mailbox, waiting) == ["a", "b"]
    mailbox.put(notification("a"))
    assert taken(mailbox, waiting) == ["a"]
    assert taken(mailbox, waiter()) == ["b", "a"]
    # It may go to another thing.
    mailbox.put(notification("a", "pump"))
    assert taken(mailbox, waiter()) == ["b"]
    mailbox.cancel("b")
    mailbox.cancel("b")
    assert taken(mailbox, waiter()) == []
    assert len(mailbox) == 1


def test_who_waits_is_woken() -> None:
    mailbox, lamp, pump = Mailbox(), waiter(), waiter("pump")
    for each in (lamp, pump):
        mailbox.attach(each)
    assert mailbox.things == 2
    mailbox.put(notification("a"))
    assert (lamp.woken.is_set(), pump.woken.is_set()) == (True, False)
    other = waiter()
    mailbox.attach(other)
    assert list(mailbox.waiters("lamp")) == [lamp, other]
    assert list(mailbox.waiters()) == [lamp, other, pump]
    for each in (lamp, pump):
        mailbox.detach(each)
    assert list(mailbox.waiters()) == [other]
    pump.end("first")
    pump.end("second")
    assert pump.ended == "first"
    assert pump.woken.is_set()


def test_a_thing_loses_its_oldest(caplog: pytest.LogCaptureFixture) -> None:
    mailbox = Mailbox(of_thing=2)
    for tunnel_id in ("a", "b", "c"):
        mailbox.put(notification(tunnel_id))
    assert taken(mailbox, waiter()) == ["b", "c"]
    # It may be told in another way.
    assert caplog.text == ""
    mailbox.attach(waiter())
    mailbox.put(notification("d"))
    assert "tunnel b: thing lamp will not be notified by the service: too many" in caplog.text


def test_the_key_with_the_most_loses_its_oldest() -> None:
    mailbox = Mailbox(capacity=3)
    mailbox.put(notification("a", "one", "few"))
    for tunnel_id in ("b", "c", "d"):
        mailbox.put(notification(tunnel_id, tunnel_id, "many"))
    assert len(mailbox) == 3
    assert [taken(mailbox, waiter(thing)) for thing in ("one", "b", "c", "d")] == [
        ["a"],
        [],
        ["c"],
        ["d"],
    ]
