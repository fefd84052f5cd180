"""The bytes of a local connection, and what the pump tells instead of deciding it."""

from __future__ import annotations

import errno
import hashlib
import random

import pytest

from support.plugins.clock import ClockLoop
from support.tunnel.engine import Host, ScriptedEnd, pass_time
from tailrace.flow.receive_buffers import PAUSE_LOW
from tailrace.localproxy import local_pump
from tailrace.localproxy.local_pump import LocalPump
from tailrace.session import LARGE, Ledger


class Pump(LocalPump):
    """A pump whose machine only notes what it is told."""

    def __init__(self, host: Host) -> None:
        super().__init__(host.connection, host.loop, host.outbound, host.inbound)
        self.told: list[str] = []

    def _park(self) -> None:
        self.told.append("no budget")

    def pause(self) -> None:
        self.told.append("no room")

    def _local_eof(self) -> None:
        self.told.append("end of file")

    def note_broken(self, error_number: int) -> None:
        self.told.append(f"broken: {errno.errorcode[error_number]}")

    def _reading_failed(self, error: OSError) -> None:
        self.told.append(f"not readable: {error.strerror}")

    def _local_failed(self, error: OSError) -> None:
        self.told.append(f"not writable: {error.strerror}")

    def _all_written(self) -> None:
        self.told.append("all written")

    def abort(self) -> None:
        self.told.append("not needed")


class Rig:
    """A pump, its local end and what is around it."""

    def __init__(self, loop: ClockLoop) -> None:
        self.loop = loop
        self.host = Host(loop)
        self.end = ScriptedEnd()
        self.pump = Pump(self.host)

    def hear(self, payload: bytes) -> None:
        """Receive data from the tunnel; its memory is overwritten afterwards."""
        memory = bytearray(payload)
        self.pump.data_received(memoryview(memory))
        memory[:] = bytes(len(memory))

    def say(self, *pieces: bytes) -> None:
        """Let the local end say something, which is read once for each piece."""
        self.end._incoming.extend(pieces)
        for _ in pieces:
            assert self.end.readable is not None
            self.end.readable()


@pytest.fixture
def unattached(loop: ClockLoop) -> Rig:
    return Rig(loop)


@pytest.fixture
def rig(loop: ClockLoop) -> Rig:
    rig = Rig(loop)
    rig.pump._set_end(rig.end)
    rig.pump._start_reading()
    return rig


def test_an_end_is_told_that_the_end_is_near_and_is_not_read_at_once(unattached: Rig):
    unattached.pump.expect_end()
    assert not unattached.pump.attached
    unattached.pump._set_end(unattached.end)
    assert unattached.pump.attached
    assert unattached.end.readable is None
    unattached.pump.expect_end()
    assert unattached.end.end_is_near


# -- local end to tunnel -------------------------------------------------------------------------


def test_bytes_become_messages_in_order(rig: Rig):
    rig.say(b"hello", b" again")
    assert rig.host.link.data == b"hello again"
    assert rig.pump.bytes_in == 11
    assert rig.end.reads == [64_512] * 2
    assert rig.pump.told == []


def test_a_read_that_would_have_to_wait_is_no_end(rig: Rig):
    assert rig.end.readable is not None
    rig.end.readable()
    assert rig.pump.told == []
    assert rig.host.link.data == b""


def test_what_may_go_ahead_is_read_and_no_more(rig: Rig):
    rig.host.outbound.set_link_paused(True)
    rig.end._incoming.append(bytes(30_000))
    assert rig.end.readable is not None
    while not rig.pump.told:
        rig.end.readable()
    # 4096 at a time, until that is no longer little.
    assert rig.end.reads == [4096] * len(rig.end.reads)
    assert 16 * 1024 <= rig.pump.bytes_in < 20_000
    assert rig.pump.told == ["no budget"]


def outlives_links(rig: Rig) -> Ledger:
    """Give the connection the books of one that outlives links, and return them."""
    ledger = Ledger("SSH", 1, 1, rig.host.outbound.memory)
    ledger.is_open = True
    rig.host.connection.counts = ledger
    rig.pump._open_books()
    return ledger


def test_what_the_peer_does_not_allow_stays_where_it_is(rig: Rig):
    ledger = outlives_links(rig)
    ledger.limit = ledger.room = 3
    rig.say(b"hello")
    assert rig.host.link.data == b"hel"
    rig.say(b"")
    assert rig.end.reads == [3]
    assert rig.pump.told == ["no room"]


@pytest.mark.parametrize("size", [1, LARGE - 1, LARGE, 64_512])
def test_what_may_be_lost_with_a_link_is_kept(rig: Rig, size: int):
    ledger, outbound = outlives_links(rig), rig.host.outbound
    ledger.limit = ledger.room = 100_000
    replay, block = ledger.replay, outbound.block
    pieces = [b"before", random.Random(3).randbytes(size), b"after"]
    rig.say(*pieces)
    messages = [rig.host.connection.data_header(len(each)) + each for each in pieces]
    kept = [view for view, *_ in replay.pieces]
    assert b"".join([*kept, replay.tail]) == b"".join(messages)
    assert rig.host.link.data == b"".join(pieces)
    if size < LARGE:
        assert outbound.block is block
    else:
        # The next one is read into another block.
        assert replay.pieces[-1] == (messages[1], 6 + size, block)
        assert replay.tail == messages[2]
        assert outbound.block is not block


def test_what_is_discarded_goes_nowhere(rig: Rig):
    rig.end.stop_reading()
    rig.pump._start_discarding()
    rig.end.in_flight = 1
    rig.say(b"hello")
    assert rig.pump.told == []
    assert rig.end.readable is not None
    rig.end.readable()  # nothing to read is no end
    assert rig.pump.told == []
    rig.end.in_flight = 0
    rig.say(b"hello")
    assert rig.host.link.data == b""
    assert rig.pump.told == ["not needed"]
    rig.end.in_flight = 1
    rig.say(b"")
    rig.end.failure = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    rig.end.readable()
    assert rig.pump.told == ["not needed"] * 3


# -- tunnel to local end -------------------------------------------------------------------------


def test_what_the_end_does_not_take_is_copied_and_arrives_unharmed(rig: Rig):
    """The sender's memory is overwritten right after each call, as the link's is."""
    content = random.Random(1).randbytes(200_000)
    rig.end.room = 1000
    for at in range(0, len(content), 1000):
        rig.hear(content[at : at + 1000])
    waiting = rig.pump.waiting
    assert waiting == rig.host.inbound.buffers.total == len(content) - 1000
    # Parts of pieces, whole pieces, and more pieces than go at once.
    for size in (1, 999, 1500, 100_000):
        rig.end.take(size)
        waiting -= min(size, waiting)
        assert rig.pump.waiting == rig.host.inbound.buffers.total == waiting
    assert rig.pump.told == []
    rig.end.take()
    assert rig.pump.waiting == rig.host.inbound.buffers.total == 0
    assert rig.end.writable is None
    assert rig.pump.told == ["all written"]
    assert rig.pump.bytes_out == len(content)
    assert hashlib.sha256(rig.end.taken).digest() == hashlib.sha256(content).digest()
    rig.hear(b"goes straight through")
    assert rig.end.taken.endswith(b"goes straight through")


def test_at_most_64_pieces_are_handed_over_at_once(rig: Rig):
    rig.end.room = 0
    for _ in range(100):
        rig.hear(b"x")
    rig.end.room = None
    assert rig.end.writable is not None
    rig.end.writable()
    assert len(rig.end.taken) == 64


def test_what_waits_is_not_overtaken(rig: Rig):
    rig.end.room = 3
    rig.hear(b"hello")
    rig.end.room = 100
    rig.hear(b" again")
    assert rig.end.taken == b"hel"
    rig.end.take()
    assert rig.end.taken == b"hello again"


def test_a_local_end_that_would_have_to_wait_waits(rig: Rig):
    rig.end.room = 0
    rig.hear(b"hello")
    assert rig.end.writable is not None
    rig.end.writable()
    assert rig.pump.waiting == 5
    assert rig.pump.told == []


def test_the_peer_goes_on_when_little_is_left(rig: Rig):
    rig.host.connection.pauses_peer = True
    rig.end.room = 0
    rig.hear(bytes(PAUSE_LOW + 2))
    rig.end.take(1)
    assert rig.host.connection.pauses_peer
    rig.end.take(1)
    assert not rig.host.connection.pauses_peer


def test_data_that_comes_while_there_is_no_local_end_waits(unattached: Rig):
    unattached.hear(b"early ")
    unattached.hear(b"bird")
    assert unattached.pump.waiting == unattached.host.inbound.buffers.total == 10
    unattached.pump._set_end(unattached.end)
    assert unattached.end.taken == b""
    unattached.end.take()
    assert unattached.end.taken == b"early bird"
    assert unattached.pump.told == ["all written"]


def test_only_what_is_delivered_of_an_answer_is_noted(rig: Rig):
    pass_time(rig.loop, 100.0)
    rig.hear(b"a banner")
    assert (rig.pump._answered, rig.pump._last_delivery) == (False, 0.0)
    rig.pump._awaits_answer = True
    rig.hear(b"the answer")
    assert (rig.pump._answered, rig.pump._last_delivery) == (True, rig.loop.time())


# -- ends and failures ---------------------------------------------------------------------------


def test_an_end_of_file_is_told_behind_what_was_read(rig: Rig):
    rig.say(b"last words", b"")
    assert rig.host.link.data == b"last words"
    assert rig.pump.told == ["end of file"]
    rig.pump.nothing_read(0)
    assert rig.pump.told == ["end of file"] * 2


def test_a_break_behind_what_was_read_is_told_before_that_is_sent(rig: Rig):
    rig.end.error = errno.ECONNRESET
    rig.say(b"last words")
    assert rig.host.link.data == b"last words"
    assert rig.pump.told == ["broken: ECONNRESET"]


def test_a_failure_to_read_is_told(rig: Rig):
    rig.end.failure = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    assert rig.end.readable is not None
    rig.end.readable()
    rig.pump.nothing_read(errno.ECONNRESET)
    assert rig.pump.told == ["not readable: Connection reset by peer"] * 2


@pytest.mark.parametrize("waiting", [0, 1, 2])
def test_a_failure_to_write_is_told(rig: Rig, waiting: int):
    rig.end.room = 0
    for _ in range(waiting):
        rig.hear(b"waits")
    rig.end.room = None
    rig.end.failure = BrokenPipeError(errno.EPIPE, "Broken pipe")
    if waiting:
        assert rig.end.writable is not None
        rig.end.writable()
    else:
        rig.hear(b"too late")
    rig.pump.writing_failed(errno.EPIPE)
    assert rig.pump.told == ["not writable: Broken pipe"] * 2
    assert rig.pump.waiting == 5 * waiting


# -- without the interpreter ---------------------------------------------------------------------


@pytest.fixture
def with_socket(loop: ClockLoop, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A pump on what is said to be a socket, beside an extension."""
    monkeypatch.setattr(local_pump, "load", object)
    rig = Rig(loop)
    monkeypatch.setattr(ScriptedEnd, "descriptor", 1000)
    return rig


def test_the_extension_reads_and_writes_sockets_only(with_socket: Rig, rig: Rig):
    with_socket.pump._set_end(with_socket.end)
    with_socket.pump._start_reading()
    assert (with_socket.pump.fd, with_socket.pump.takes) == (1000, True)
    assert with_socket.end.readable == with_socket.pump.readable


def test_the_extension_writes_while_nothing_waits_and_no_answer_comes(with_socket: Rig):
    with_socket.hear(b"early bird")
    pump, end = with_socket.pump, with_socket.end
    pump._set_end(end)
    assert not pump.takes
    end.take()
    assert pump.takes
    end.room = 0
    with_socket.hear(b"waits")
    assert not pump.takes
    pump._awaits_answer = True
    end.take()
    assert not pump.takes
