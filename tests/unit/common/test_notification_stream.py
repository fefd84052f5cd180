"""Events as both ends know them."""

from tailrace.aws.event_stream import EventReader
from tailrace.common.notification_stream import EVENT, KEEP_ALIVE, event


def test_what_one_end_writes_the_other_reads() -> None:
    sent = event("t-1", '{"a": 1}')
    (read,) = EventReader().feed(KEEP_ALIVE + sent + KEEP_ALIVE)
    assert (read.kind, read.event_id, read.data) == (EVENT, "t-1", b'{"a": 1}')
