"""From tunnels to notifications."""

from dataclasses import replace

from tailrace.common.secret import Secret
from tailrace.mqtt.topics import TopicTemplate
from tailrace.service.notify.announcer import Announcer
from tailrace.service.notify.base import Notification
from tailrace.service.notify.outbox import Outbox
from tailrace.service.tunnels.records import (
    ConnectionState,
    ConnectionStatus,
    TunnelRecord,
    TunnelStatus,
)

STATE = ConnectionState(ConnectionStatus.DISCONNECTED, 0.0)
TUNNEL = TunnelRecord(
    "t1",
    TunnelStatus.OPEN,
    0.0,
    0.0,
    99.0,
    1,
    STATE,
    STATE,
    thing_name="lamp",
    services=("SSH",),
    key_id="AK",
)


class Nowhere:
    name = "nowhere"

    async def deliver(self, notification: Notification) -> None:
        raise AssertionError

    async def close(self) -> None:
        pass


async def test_announcing_and_withdrawing() -> None:
    outboxes = [Outbox(Nowhere(), lambda: 0.0) for _ in range(2)]
    announcer = Announcer(outboxes, "eu-west-1", TopicTemplate("t/{thing}"))
    announcer.announce(replace(TUNNEL, thing_name=None), Secret("unheard"))
    assert [outbox.waiting for outbox in outboxes] == [0, 0]
    announcer.announce(TUNNEL, Secret("token"))
    (waiting,) = outboxes[1]._waiting.values()
    assert waiting.notification == Notification(
        "t1", "AK", "lamp", "t/lamp", Secret("token"), "eu-west-1", ("SSH",), 99.0
    )
    announcer.withdraw("t1")
    assert [outbox.waiting for outbox in outboxes] == [0, 0]


async def test_a_test_brings_no_token() -> None:
    outboxes = [Outbox(Nowhere(), lambda: 0.0) for _ in range(2)]
    announcer = Announcer(outboxes, "eu-west-1", TopicTemplate("t/{thing}"))
    first = announcer.test("lamp", "AK", 5.0)
    token_id = announcer.test("lamp", "AK", 5.0)
    assert first != token_id
    for outbox in outboxes:
        (waiting,) = outbox._waiting.values()  # of a thing there is one
        found = waiting.notification
        assert (found.topic, found.key_id, found.expires_at) == ("t/lamp", "AK", 65.0)
        assert found.document() == {"clientMode": "test", "tokenId": token_id}
