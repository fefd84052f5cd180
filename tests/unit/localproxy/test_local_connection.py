"""The state machine of a local connection, step by step, on a scripted local end."""

from __future__ import annotations

import errno
import logging
import random
import time
from itertools import pairwise

import pytest

from support.plugins.clock import ClockLoop
from support.tunnel.engine import Host, ScriptedEnd, data_message, pass_time, turn
from tailrace.common.extension import load, why_not
from tailrace.errors import LocalProtocolError
from tailrace.localproxy.connection_states import NEXT, ConnectionState
from tailrace.localproxy.local_connection import LocalConnection
from tailrace.wire import MessageType, Side

(
    DIALING,
    OPEN,
    PARKED,
    PAUSED,
    HALF_CLOSED,
    FLUSHING,
    CLOSING,
    RESETTING,
    CLOSED,
) = ConnectionState
RESET = (MessageType.CONNECTION_RESET, 1)


class Rig:
    """A local connection, its local end and what is around it."""

    def __init__(self, loop: ClockLoop, side: Side) -> None:
        self.loop = loop
        self.host = Host(loop, side)
        self.end = ScriptedEnd()
        self.local = LocalConnection(
            self.host, self.host.connection, "peer", lingers=side is Side.SOURCE
        )

    def attach(self) -> Rig:
        self.local.attach(self.end)
        return self

    def hear(self, payload: bytes) -> None:
        """Receive data from the tunnel; its memory is overwritten afterwards."""
        memory = bytearray(payload)
        self.local.data_received(memoryview(memory))
        memory[:] = bytes(len(memory))

    def tunnel_ends(self, *, cut: bool = False) -> None:
        self.host.connection.stream.remove(self.host.connection)
        self.local.tunnel_ended(cut="the link is lost" if cut else "")

    @property
    def resets(self) -> int:
        return self.host.link.control.count(RESET)

    @property
    def timers(self) -> int:
        return len([handle for handle in self.loop._scheduled if not handle.cancelled()])


@pytest.fixture
def client(loop: ClockLoop) -> Rig:
    return Rig(loop, Side.SOURCE).attach()


@pytest.fixture
def application(loop: ClockLoop) -> Rig:
    """An application that is being dialed."""
    return Rig(loop, Side.DESTINATION)


# -- the states ----------------------------------------------------------------------------------


def into(rig: Rig, state: ConnectionState) -> None:
    """Bring a connection that is being dialed into a state."""
    if state is DIALING:
        return
    rig.attach()
    match state:
        case ConnectionState.PARKED:
            rig.host.outbound.detach()
            rig.end.say(b"wants to send")
        case ConnectionState.PAUSED:
            rig.local.pause()
        case ConnectionState.HALF_CLOSED:
            rig.end.say(b"")
        case ConnectionState.FLUSHING:
            rig.end.room = 0
            rig.hear(b"last words")
            rig.tunnel_ends()
        case ConnectionState.CLOSING:
            rig.tunnel_ends()
        case ConnectionState.RESETTING:
            rig.end.in_flight = 10
            rig.tunnel_ends(cut=True)
        case ConnectionState.CLOSED:
            rig.local.abort()
    assert rig.local.state is state


@pytest.mark.parametrize("state", list(ConnectionState), ids=lambda state: state.value)
def test_only_what_the_table_says_may_follow(loop: ClockLoop, state: ConnectionState):
    assert set(NEXT) == set(ConnectionState)
    for following in ConnectionState:
        rig = Rig(loop, Side.SOURCE)
        into(rig, state)
        if following not in NEXT[state]:
            with pytest.raises(LocalProtocolError, match=f"{state.value}> cannot become"):
                rig.local._enter(following)
            assert rig.local.state is state
        rig.local.abort()


@pytest.mark.parametrize("state", list(ConnectionState), ids=lambda state: state.value)
def test_a_local_end_is_read_in_two_states_only_and_left_alone_after_the_end(
    loop: ClockLoop, state: ConnectionState
):
    rig = Rig(loop, Side.SOURCE)
    into(rig, state)
    assert (rig.end.readable is not None) is (state in (OPEN, CLOSING))
    assert (rig.end.writable is not None) is (state is FLUSHING)
    rig.local.abort()
    rig.local.abort()
    assert rig.host.events.count("closed") == 1
    assert rig.end.readable is rig.end.writable is None
    assert rig.end.closed is (state is not DIALING)
    assert rig.local.waiting == rig.host.inbound.buffers.total == len(rig.local._pieces) == 0
    assert not rig.host.outbound._turns.contended
    assert rig.timers == 0
    assert repr(rig.local) == "<peer closed>"


@pytest.mark.parametrize("state", [HALF_CLOSED, FLUSHING, CLOSING, RESETTING, CLOSED])
def test_what_the_owner_says_too_late_changes_nothing(loop: ClockLoop, state: ConnectionState):
    rig = Rig(loop, Side.SOURCE)
    into(rig, state)
    before = list(rig.host.events)
    rig.local.pause()
    rig.local.resume()
    if state is not HALF_CLOSED:
        rig.local.tunnel_ended()
        rig.local.end_linger()
    assert rig.local.state is state
    assert rig.host.events == before
    rig.local.abort()


@pytest.mark.skipif(load() is None, reason=f"no compiled extension: {why_not()}")
@pytest.mark.parametrize("state", list(ConnectionState), ids=lambda state: state.value)
def test_the_extension_writes_to_live_ones_that_do_not_linger(
    loop: ClockLoop, state: ConnectionState, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ScriptedEnd, "descriptor", 1000)
    rig = Rig(loop, Side.SOURCE)
    into(rig, state)
    assert rig.local.takes is (state in (OPEN, PARKED, PAUSED))
    rig.local.abort()
    assert (rig.local.fd, rig.local.takes) == (-1, False)


def test_attached_tells_whether_there_ever_was_a_local_end(application: Rig):
    assert not application.local.attached
    application.attach()
    assert application.local.attached
    application.local.abort()
    assert application.local.attached


# -- turns and pauses ----------------------------------------------------------------------------


def test_without_a_budget_a_connection_parks_and_reads_at_its_turn(client: Rig):
    outbound = client.host.outbound
    outbound.detach()
    client.end.say(b"hello")
    assert client.local.state is PARKED
    assert client.end.reads == []
    outbound.attach(client.host.link.send)
    turn(client.loop)
    assert client.host.link.data == b"hello"
    assert client.local.state is OPEN
    client.end.say(b" again")
    assert client.host.link.data == b"hello again"


def test_a_turn_reads_once_and_parks_again_where_others_wait(loop: ClockLoop):
    one, other = Rig(loop, Side.SOURCE), Rig(loop, Side.SOURCE)
    host = other.host = one.host
    other.local = LocalConnection(host, host.session.open("SSH"), "other", lingers=True)
    one.attach()
    other.attach()
    other.end.say(b"x")
    host.outbound.detach()
    one.end.say(b"aaaa", b"aa")
    other.end.say(b"bb")
    host.outbound.attach(host.link.send)
    host.outbound.set_window(full=False, quantum=3)
    turn(loop)
    # A quantum each, in the order they came; then neither has a reason to park again.
    assert host.link.data == b"xaaabba"
    assert (one.end.reads, other.end.reads) == ([3, 3], [64_512, 3])
    assert (one.local.state, other.local.state) == (OPEN, OPEN)
    one.end.tell()
    assert host.link.data == b"xaaabbaaa"
    for rig in (one, other):
        rig.local.abort()


def test_a_turn_that_fills_the_link_leaves_the_connection_parked(client: Rig):
    outbound = client.host.outbound
    outbound.detach()
    client.end.say(b"hello", b" again")

    def fill(message: memoryview) -> None:
        client.host.link.send(message)
        outbound.set_link_paused(True)

    outbound.attach(fill)
    turn(client.loop)
    assert client.host.link.data == b"hello"
    assert client.local.state is PARKED
    outbound.set_link_paused(False)
    turn(client.loop)
    assert client.host.link.data == b"hello again"


def test_a_turn_with_nothing_to_say_goes_back_to_watching(client: Rig):
    client.host.outbound.detach()
    client.end.say(b"taken by somebody else")
    client.end._incoming.clear()
    client.host.outbound.attach(client.host.link.send)
    turn(client.loop)
    assert client.local.state is OPEN


def test_a_paused_connection_is_not_read_and_loses_nothing(client: Rig):
    client.local.pause()
    client.local.pause()
    client.end.say(b"hello")
    assert client.local.state is PAUSED
    assert client.host.link.data == b""
    client.local.resume()
    client.local.resume()
    client.end.tell()
    assert client.host.link.data == b"hello"
    assert client.local.state is OPEN


def test_a_parked_connection_that_is_paused_has_no_turn(client: Rig):
    client.host.outbound.detach()
    client.end.say(b"hello")
    client.local.pause()
    client.host.outbound.attach(client.host.link.send)
    turn(client.loop)
    assert client.local.state is PAUSED
    assert client.host.link.data == b""
    client.local.resume()
    client.end.tell()
    assert client.host.link.data == b"hello"


def test_a_parked_connection_that_is_resumed_keeps_waiting(client: Rig):
    client.host.outbound.detach()
    client.end.say(b"hello")
    client.local.resume()
    assert client.local.state is PARKED


def test_an_application_may_be_paused_while_it_is_dialed(application: Rig):
    application.host.connection.is_paused = True
    application.local.pause()
    assert application.local.state is DIALING
    application.attach()
    assert application.local.state is PAUSED
    application.host.connection.is_paused = False
    application.local.resume()
    application.end.say(b"hello")
    assert application.host.link.data == b"hello"


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [OPEN, PARKED, PAUSED, HALF_CLOSED])
def test_an_end_that_cannot_be_written_is_given_up(loop: ClockLoop, state: ConnectionState):
    rig = Rig(loop, Side.SOURCE)
    into(rig, state)
    rig.end.failure = BrokenPipeError(errno.EPIPE, "Broken pipe")
    rig.hear(b"too late")
    assert rig.local.state is CLOSED
    assert rig.host.events[-2:] == ["local ended", "closed"]
    assert rig.resets == 1


@pytest.mark.parametrize("piece", [1, 2])
def test_an_end_that_fails_with_bytes_waiting_is_given_up(client: Rig, piece: int):
    client.end.room = 0
    for _ in range(piece):
        client.hear(b"hello")
    client.end.room = None
    client.end.failure = BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert client.end.writable is not None
    client.end.writable()
    assert client.host.events == ["local ended", "closed"]
    assert client.host.inbound.buffers.total == 0


# -- the end of the local end --------------------------------------------------------------------


def test_the_end_of_file_of_an_application_ends_the_connection(application: Rig):
    application.attach().end.say(b"answer", b"")
    assert application.host.link.data == b"answer"
    assert application.host.events == ["local ended", "delivered"]
    assert application.end.shut
    assert application.local.state is CLOSING
    assert application.resets == 1


def test_an_application_that_has_ended_still_gets_what_was_received(application: Rig):
    application.attach()
    application.end.room = 0
    application.hear(b"last words")
    application.end.say(b"")
    assert application.local.state is FLUSHING
    assert not application.end.shut
    application.end.take()
    assert application.end.taken == b"last words"
    assert application.local.state is CLOSING


def test_a_client_that_has_half_closed_gets_its_answer(client: Rig):
    client.end.say(b"request", b"")
    assert client.local.state is HALF_CLOSED
    assert client.host.events == ["half closed"]
    client.hear(b"late answer")
    client.tunnel_ends()
    assert client.end.taken == b"late answer"
    assert client.end.shut
    assert client.resets == 0


def test_a_half_closed_client_is_given_up_after_silence(client: Rig):
    pass_time(client.loop, 10.0)
    client.end.say(b"")
    pass_time(client.loop, 4.9)
    assert client.local.state is HALF_CLOSED
    client.hear(b"news")
    pass_time(client.loop, 4.9)
    assert client.local.state is HALF_CLOSED
    pass_time(client.loop, 0.2)
    assert client.host.events == ["half closed", "local ended", "delivered"]
    assert client.resets == 1


def test_a_half_closed_client_with_bytes_waiting_is_not_given_up(client: Rig):
    """However slow it is: the linger time is for silence."""
    client.end.room = 0
    client.hear(b"waits")
    client.end.say(b"")
    pass_time(client.loop, 60.0)
    assert client.local.state is HALF_CLOSED
    client.end.take()
    pass_time(client.loop, 4.9)
    assert client.local.state is HALF_CLOSED
    pass_time(client.loop, 0.3)
    assert client.local.state is CLOSING


def test_the_linger_can_be_cut_short(client: Rig):
    client.end.say(b"")
    client.local.end_linger()
    assert client.host.events == ["half closed", "local ended", "delivered"]


def test_the_linger_is_not_cut_short_while_the_answer_comes(client: Rig):
    client.end.say(b"")
    client.hear(b"the answer")
    client.local.end_linger()
    assert client.local.state is HALF_CLOSED


def test_an_answer_before_the_half_close_is_none(client: Rig):
    client.hear(b"a banner")
    client.end.say(b"")
    client.local.end_linger()
    assert client.local.state is CLOSING


def test_a_client_that_is_gone_is_getting_no_answer(client: Rig):
    client.end.say(b"")
    client.hear(b"too late")
    client.end.error = errno.ECONNRESET
    client.local.end_linger()
    assert client.local.state is CLOSING


@pytest.mark.parametrize("state", [OPEN, PARKED, PAUSED])
def test_end_linger_is_for_half_closed_ones(loop: ClockLoop, state: ConnectionState):
    rig = Rig(loop, Side.SOURCE)
    into(rig, state)
    rig.local.end_linger()
    assert rig.local.state is state
    rig.local.abort()


@pytest.mark.parametrize("lingers", [Side.SOURCE, Side.DESTINATION])
def test_a_failure_of_the_local_end_is_passed_on(
    loop: ClockLoop, lingers: Side, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    rig = Rig(loop, lingers).attach()
    rig.end.say(b"last words")
    rig.end.fail()
    assert rig.host.link.data == b"last words"
    assert rig.host.events == ["local ended", "closed"]
    assert rig.resets == 1
    assert "peer: local socket failed: [Errno 104] Connection reset by peer" in caplog.text


def test_a_failure_after_the_end_in_the_tunnel_is_nobodys_business(client: Rig):
    client.end.room = 0
    client.hear(b"waits")
    client.tunnel_ends()
    client.end.room = None
    client.end.failure = BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert client.end.writable is not None
    client.end.writable()
    assert client.host.events == ["closed"]
    assert client.resets == 0


def test_a_break_that_was_announced_with_data_is_told_after_the_data(client: Rig):
    """uvloop calls back once when a socket has an error: watching begins anew."""
    client.end.error = errno.ECONNRESET
    client.end.say(b"last words")
    assert client.end.watched == 1
    turn(client.loop)
    assert client.end.watched == 2
    assert client.local.state is OPEN
    client.end.error = 0
    client.end.say(b"")  # not half-closed: it is broken
    assert client.host.link.data == b"last words"
    assert client.host.events == ["local ended", "closed"]


def test_a_break_that_was_announced_before_the_end_is_not_watched_for(client: Rig):
    client.end.error = errno.ECONNRESET
    client.end.say(b"last words")
    client.tunnel_ends()
    readable = client.end.readable
    turn(client.loop)
    assert client.end.readable == readable


# -- the end in the tunnel -----------------------------------------------------------------------


@pytest.mark.parametrize("state", [OPEN, PARKED, PAUSED, HALF_CLOSED])
def test_everything_received_is_delivered_before_the_end(loop: ClockLoop, state: ConnectionState):
    rig = Rig(loop, Side.SOURCE)
    into(rig, state)
    rig.end.room = 4
    rig.hear(b"last words")
    rig.tunnel_ends()
    assert rig.local.state is FLUSHING
    assert not rig.end.shut
    assert not rig.host.outbound._turns.contended
    rig.end.take()
    assert rig.end.taken == b"last words"
    assert rig.end.shut
    assert rig.host.events[-1] == "delivered"
    assert rig.local.state is CLOSING
    rig.end.say(b"")
    assert rig.local.state is CLOSED


def test_a_connection_that_ended_while_dialing_is_still_delivered(application: Rig):
    application.hear(b"fire and forget")
    application.tunnel_ends()
    assert application.local.state is FLUSHING
    pass_time(application.loop, 3600.0)
    assert application.local.state is FLUSHING
    application.attach()
    assert application.end.readable is None
    application.end.take()
    assert application.end.taken == b"fire and forget"
    assert application.local.state is CLOSING


def test_a_late_local_end_of_a_connection_without_data_is_shut(application: Rig):
    application.tunnel_ends()
    application.attach()
    assert application.end.shut
    assert application.local.state is CLOSING


def test_a_local_end_that_takes_nothing_is_given_up(client: Rig, caplog: pytest.LogCaptureFixture):
    pass_time(client.loop, 10.0)
    client.end.room = 0
    client.hear(b"12345")
    client.tunnel_ends()
    pass_time(client.loop, 29.9)
    client.end.take(1)
    pass_time(client.loop, 29.9)
    assert client.local.state is FLUSHING
    pass_time(client.loop, 0.2)
    assert client.local.state is CLOSED
    assert "peer: 4 bytes could not be delivered: the local end takes nothing" in caplog.text
    assert client.host.events == ["closed"]


def test_a_local_end_that_cannot_be_shut_is_closed(client: Rig):
    client.end.failure = OSError(errno.ENOTCONN, "not connected")
    client.tunnel_ends()
    assert client.host.events == ["closed"]
    assert client.end.closed


def test_a_local_end_that_does_not_close_is_closed(client: Rig):
    client.tunnel_ends()
    pass_time(client.loop, 4.9)
    assert client.local.state is CLOSING
    pass_time(client.loop, 0.2)
    assert client.local.state is CLOSED


@pytest.mark.parametrize("acknowledged", [True, False])
def test_what_a_local_end_still_says_is_dropped(client: Rig, acknowledged: bool):
    """Once it has everything of ours, it learns by a reset that nobody listens."""
    client.tunnel_ends()
    client.end.in_flight = 0 if acknowledged else 10
    client.end.say(b"still there?")
    assert client.host.link.data == b""
    assert client.local.state is (CLOSED if acknowledged else CLOSING)
    assert client.end.reads == [64_512]
    if not acknowledged:
        assert client.end.readable is not None
        client.end.readable()  # nothing to read is no end
        assert client.local.state is CLOSING
        client.end.fail()
        assert client.local.state is CLOSED


def test_one_that_is_aborted_while_it_tells_its_end(client: Rig, monkeypatch: pytest.MonkeyPatch):
    """What is told may lead to the end of everything."""
    monkeypatch.setattr(client.host, "local_ended", lambda local, _: local.abort())
    client.end.room = 0
    client.hear(b"waits")
    client.end.say(b"")
    pass_time(client.loop, 1.0)
    client.end.error = errno.ECONNRESET
    client.local.end_linger()
    assert client.local.state is CLOSED
    assert client.timers == 0
    assert client.host.events == ["half closed", "closed"]


def test_a_whole_life_moves_every_byte_once(loop: ClockLoop):
    before = time.time()
    client = Rig(loop, Side.SOURCE).attach()
    sizes = [1, 64_512, 100, 5]
    content = random.Random(2).randbytes(sum(sizes))
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    for start, stop in pairwise([0, *ends]):
        client.end.say(content[start:stop])
        client.host.session.receive_frame(data_message(content[start:stop]))
    assert client.host.link.data == content == client.end.taken
    assert (client.local.bytes_in, client.local.bytes_out) == (len(content), len(content))
    assert before <= client.local.since <= time.time()


# -- cut ------------------------------------------------------------------------------------------


def test_what_was_cut_is_reset_once_everything_is_delivered(client: Rig):
    client.end.room = 4
    client.hear(b"last words")
    client.tunnel_ends(cut=True)
    assert client.local.state is FLUSHING
    client.end.take()
    assert client.end.taken == b"last words"
    assert client.end.was_reset
    assert client.end.reset_reason == "the link is lost"
    assert not client.end.shut
    assert client.host.events == ["closed"]
    assert client.resets == 0


def test_a_reset_waits_until_the_other_end_has_got_everything(client: Rig):
    """It would destroy what has not: however slowly that is taken, as long as it is."""
    client.end.in_flight = 100
    client.tunnel_ends(cut=True)
    for left in range(90, 0, -10):
        pass_time(client.loop, 20.0)
        assert client.local.state is RESETTING
        client.end.in_flight = left
    client.end.in_flight = 0
    pass_time(client.loop, 1.5)
    assert client.end.was_reset
    assert client.timers == 0


def test_a_reset_does_not_wait_for_one_that_takes_nothing(
    client: Rig, caplog: pytest.LogCaptureFixture
):
    client.end.in_flight = 100
    client.tunnel_ends(cut=True)
    pass_time(client.loop, 28.0)
    assert client.local.state is RESETTING
    pass_time(client.loop, 3.5)
    assert client.end.was_reset
    assert "peer: 100 bytes could not be delivered" in caplog.text


def test_a_reset_does_not_wait_for_one_that_is_gone(client: Rig):
    client.end.in_flight = 100
    client.end.gone = True
    client.tunnel_ends(cut=True)
    assert client.local.state is CLOSED


def test_one_that_is_dialed_is_reset_when_it_has_got_what_came_before(application: Rig):
    application.hear(b"last words")
    application.tunnel_ends(cut=True)
    application.attach()
    application.end.take()
    assert application.end.taken == b"last words"
    assert application.end.was_reset


def test_a_half_closed_client_sees_that_its_answer_was_cut(client: Rig):
    client.end.say(b"request", b"")
    client.hear(b"half an ans")
    client.tunnel_ends(cut=True)
    assert client.end.taken == b"half an ans"
    assert client.end.was_reset


@pytest.mark.parametrize("state", list(ConnectionState), ids=lambda state: state.value)
def test_an_abort_is_an_end_in_order_only_where_nothing_is_lost(
    loop: ClockLoop, state: ConnectionState
):
    rig = Rig(loop, Side.SOURCE)
    into(rig, state)
    before = rig.end.was_reset
    rig.local.abort()
    assert rig.end.was_reset is (before or state not in (DIALING, CLOSING, CLOSED))


@pytest.mark.parametrize("side", Side)
def test_a_failure_of_the_local_end_is_told(loop: ClockLoop, side: Side):
    who = "client" if side is Side.SOURCE else "application"
    for number, failure in (
        (errno.ECONNRESET, f"the {who} reset the connection"),
        (errno.ETIMEDOUT, f"the connection of the {who} failed: Connection timed out"),
        (errno.EPIPE, ""),  # closed in order within this process
    ):
        rig = Rig(loop, side).attach()
        rig.end.fail(number)
        assert rig.host.failures == [failure]


def test_a_failure_behind_the_last_bytes_is_told(client: Rig):
    client.end.error = errno.ECONNRESET
    client.end.say(b"half a req", b"")
    assert client.host.failures == ["the client reset the connection"]
    assert client.host.link.data == b"half a req"


def test_a_client_that_leaves_after_its_end_of_file_has_failed_nothing(client: Rig):
    client.end.say(b"request", b"")
    client.end.fail()
    client.hear(b"answer that nobody waits for")
    assert client.host.failures == [""]


# -- gone -----------------------------------------------------------------------------------------


def test_a_client_that_is_gone_does_not_linger(client: Rig):
    client.end.gone = True
    client.end.say(b"request", b"")
    assert client.local.state is CLOSING
    assert client.host.events == ["local ended", "delivered"]
    assert client.host.failures == [""]


def test_a_half_closed_client_that_leaves_is_noticed(client: Rig):
    client.host.linger = 3600.0
    client.end.say(b"request", b"")
    pass_time(client.loop, 100.0)
    assert client.local.state is HALF_CLOSED
    client.end.gone = True
    pass_time(client.loop, 1.5)
    assert client.local.state is CLOSING
