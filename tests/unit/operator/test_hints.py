from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from support.service.scripted_client import BUSY, NOW, ScriptedClient, tunnel
from tailrace.aws import SideState, TunnelDescription, TunnelState
from tailrace.errors import ControlError, TunnelNotFound
from tailrace.operator.hints import absence_hint, ago

CLOSED = TunnelState.CLOSED


def earlier(days: int, *, services: tuple[str, ...] = ("SSH",)) -> TunnelDescription:
    """A tunnel whose device was connected so many days ago."""
    at = datetime.now(UTC) - timedelta(days=days, hours=1)
    side = SideState(is_connected=False, since=at)
    opened = at - timedelta(minutes=5)
    return tunnel(
        f"d{days}", state=CLOSED, destination=side, opened=opened, services=services, thing="t"
    )


NEVER = tunnel("n", state=CLOSED, destination=SideState(is_connected=False, since=NOW), opened=NOW)


@pytest.mark.parametrize(
    ("tunnels", "hint"),
    [
        ([], ""),
        ([NEVER], ""),
        ([earlier(9), earlier(3), NEVER], "last seen 3 days ago"),
        ([tunnel("o", destination=BUSY), earlier(3)], "connected to another tunnel now"),
        ([earlier(1, services=("ssh",))], "last seen 1 day ago; did you mean service ssh?"),
        ([earlier(1, services=("VNC",))], "last seen 1 day ago"),
    ],
)
async def test_what_earlier_tunnels_tell(tunnels: list[TunnelDescription], hint: str) -> None:
    client = ScriptedClient(tunnel("this", thing="t"), *tunnels)
    if not tunnels:
        client.tunnels[0] = tunnel("this", thing="t")
    assert await absence_hint(client, "t", "SSH", "this") == hint


async def test_a_thing_that_nobody_has_heard_of() -> None:
    class OfThings(ScriptedClient):
        async def list(self, *, thing=None, limit=None):
            for each in self.tunnels:
                if thing in (None, each.thing):
                    yield each

    client = OfThings(tunnel("this", thing="pmup-7"), tunnel("a", thing="pump-7"))
    hint = await absence_hint(client, "pmup-7", "SSH", "this")
    assert hint == "no earlier tunnel to it; did you mean pump-7?"
    assert await absence_hint(client, "pmup-7", "SSH", "this") == hint
    client.tunnels.pop()
    assert await absence_hint(client, "pmup-7", "SSH", "this") == ""


@pytest.mark.parametrize("fault", [ControlError("", "down"), TunnelNotFound("", "gone")])
async def test_a_service_that_does_not_tell(fault: Exception) -> None:
    client = ScriptedClient(earlier(3))
    client.faults["describe"] = fault
    assert await absence_hint(client, "t", "SSH", "this") == ""


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=-1), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(hours=23), "23 hours"),
        (timedelta(days=3, hours=5), "3 days"),
    ],
)
def test_how_long_ago(passed: timedelta, text: str) -> None:
    assert ago(passed) == text
