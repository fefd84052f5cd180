"""Relay ends joined by a switchboard; links write down what they are told."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.errors import RemoteProtocolError
from tailrace.service.relay.relay_end import RelayEnd, service_ids_message
from tailrace.service.relay.switchboard import Switchboard
from tailrace.service.relay.turn_budget import (
    FRAME_COST,
    FULL_BUDGET,
    JUDGED_COST,
    ROUTED_COST,
    TurnBudget,
)
from tailrace.service.telemetry.counters import Counters, ResetCause
from tailrace.wire import (
    FLOW,
    MAX_PAYLOAD,
    NO_CAPABILITIES,
    PASSED_ON,
    PEER_MESSAGES,
    RESUME_MESSAGES,
    Capabilities,
    DataHeader,
    Message,
    MessageSplitter,
    MessageType,
    Side,
    decode,
    encode,
    encode_delimited,
)

DATA = MessageType.DATA
START = MessageType.STREAM_START
RESET = MessageType.STREAM_RESET
CONNECT = MessageType.CONNECTION_START
HANG_UP = MessageType.CONNECTION_RESET


class Recorder:
    """A link that keeps what the relay does with it."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.told: list[Message] = []
        """What :meth:`take` has found about the other side of the tunnel, apart from the rest."""
        self.pings: list[bytes] = []
        self.reading = True
        self.closed: tuple[int, str] | None = None

    def send(self, messages: bytes | memoryview) -> None:
        self.frames.append(bytes(messages))

    def ping(self, payload: bytes) -> None:
        self.pings.append(payload)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def take(self) -> list[Message]:
        """Return and forget the messages sent so far."""
        splitter = MessageSplitter()
        found: list[Message] = []
        for frame in self.frames:
            for body in splitter.feed(memoryview(frame)):
                message = decode(body)
                kept = self.told if message.type in PEER_MESSAGES else found
                kept.append(message._replace(payload=bytes(message.payload)))
        assert len(splitter.partial) == 0
        self.frames.clear()
        return found


class Tunnel:
    """One tunnel with services A and B, both sides connected."""

    def __init__(self) -> None:
        self.switchboard = Switchboard()
        self.counters = Counters(lambda: 0.0)
        self.source, self.source_link = self.connect(Side.SOURCE)
        self.destination, self.destination_link = self.connect(Side.DESTINATION)

    def connect(
        self, side: Side, *, has_flow: bool = False, capabilities: Capabilities | None = None
    ) -> tuple[RelayEnd, Recorder]:
        link = Recorder()
        end = new_end(link, side, self.counters, has_flow=has_flow, capabilities=capabilities)
        end.join(self.switchboard, "t", 1e9)
        return end, link


def new_end(
    link: Recorder,
    side: Side,
    counters: Counters | None = None,
    *,
    has_flow: bool = False,
    capabilities: Capabilities | None = None,
) -> RelayEnd:
    counters = counters or Counters(lambda: 0.0)
    if capabilities is None:
        capabilities = FLOW if has_flow else NO_CAPABILITIES
    return RelayEnd(link, side, ("A", "B"), counters, TurnBudget(), capabilities)


@pytest.fixture
def tunnel() -> Tunnel:
    return Tunnel()


def feed(end: RelayEnd, *messages: Message) -> None:
    end.frame_received(memoryview(b"".join(encode_delimited(message) for message in messages)))
    catch_up(end)


def turn(end: RelayEnd) -> None:
    """Let the loop turn once."""
    end._turn_budget.renew()
    end.proceed()


def catch_up(end: RelayEnd) -> None:
    """Let the loop turn until nothing waits."""
    turn(end)
    while end.has_backlog:
        turn(end)


def start(stream: int = 1, service: str = "A", connection: int = 1) -> Message:
    return Message(START, stream, service, connection)


def data(
    payload: bytes = b"x", stream: int = 1, service: str = "A", connection: int = 1
) -> Message:
    return Message(DATA, stream, service, connection, payload)


def reset(stream: int = 1, service: str = "A", connection: int = 1) -> Message:
    return Message(RESET, stream, service, connection)


def test_service_ids_message() -> None:
    assert service_ids_message(["SSH1", "HTTP1", "SSH1"]).hex() == (
        "000f080532045353483132054854545031"
    )
    assert service_ids_message([]).hex() == "00020805"


class TestPassingOn:
    def test_whole_frames_pass_unchanged_and_undivided(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        tunnel.destination_link.take()
        frame = b"".join(
            (
                encode_delimited(data(b"one")),
                # fields in another order, as the C library writes them
                bytes.fromhex("000e08011001380122036f6e652a0141"),
                encode_delimited(Message(CONNECT, 1, "A", 2)),
                encode_delimited(data(b"two", connection=2)),
                encode_delimited(Message(HANG_UP, 1, "A", 2)),
            )
        )
        tunnel.source.frame_received(memoryview(frame))
        assert tunnel.destination_link.frames == [frame]

    def test_stream_start_travels_alone(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        tunnel.destination_link.frames.clear()
        feed(tunnel.source, data(b"a"), start(7, "B"), data(b"b", 7, "B"), data(b"c", 7, "B"))
        assert tunnel.destination_link.frames == [
            encode_delimited(data(b"a")),
            encode_delimited(start(7, "B")),
            encode_delimited(data(b"b", 7, "B")) + encode_delimited(data(b"c", 7, "B")),
        ]

    def test_both_directions(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        feed(tunnel.destination, data(b"answer"), Message(HANG_UP, 1, "A", 1), reset())
        assert tunnel.source_link.take() == [
            data(b"answer"),
            Message(HANG_UP, 1, "A", 1),
            reset(),
        ]

    def test_views_are_passed_on_not_copies(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        seen: list[memoryview] = []
        tunnel.destination_link.send = seen.append
        frame = bytearray(encode_delimited(data(b"x" * 1000)))
        tunnel.source.frame_received(memoryview(frame))
        assert seen[0].obj is frame

    @settings(deadline=None)
    @given(seed=st.integers(0, 2**32))
    def test_any_split_of_the_byte_stream(self, seed: int) -> None:
        tunnel = Tunnel()
        chance = random.Random(seed)
        sent = [start()]
        for _ in range(chance.randrange(1, 12)):
            kind = chance.randrange(4)
            if kind == 0:
                sent.append(start(len(sent) + 1, chance.choice("AB")))
            else:
                size = chance.choice([0, 1, 5, 300, 5000, MAX_PAYLOAD])
                sent.append(data(chance.randbytes(size)))
        stream = b"".join(encode_delimited(message) for message in sent)
        at = 0
        while at < len(stream):
            size = chance.choice([1, 2, 3, 100, 4096, 131_076])
            # A fresh buffer each time that is wiped at once, as picows reuses its own.
            buffer = bytearray(stream[at : at + size])
            tunnel.source.frame_received(memoryview(buffer))
            buffer[:] = bytes(len(buffer))
            at += size
            if chance.randrange(8) == 0:
                turn(tunnel.source)
        catch_up(tunnel.source)
        assert tunnel.destination_link.take() == sent

    def test_a_started_message_waits_for_its_end(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        tunnel.destination_link.frames.clear()
        frame = encode_delimited(data(b"hello")) * 2
        tunnel.source.frame_received(memoryview(frame[:-1]))
        assert tunnel.destination_link.frames == [encode_delimited(data(b"hello"))]
        tunnel.source.frame_received(memoryview(frame[-1:]))
        assert tunnel.destination_link.frames == [encode_delimited(data(b"hello"))] * 2

    def test_empty_frames_are_harmless(self, tunnel: Tunnel) -> None:
        tunnel.source.frame_received(memoryview(b""))
        tunnel.source.frame_received(memoryview(b"\x00"))
        tunnel.source.frame_received(memoryview(b""))
        tunnel.source.frame_received(memoryview(encode_delimited(start())[1:]))
        assert tunnel.destination_link.take() == [start()]

    def test_unknown_ignorable_messages_are_dropped(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        tunnel.destination_link.frames.clear()
        feed(tunnel.source, data(b"a"), Message(99, ignorable=True), data(b"b"))
        assert tunnel.destination_link.take() == [data(b"a"), data(b"b")]


class TestRecognisedMessages:
    """Messages in a row, or of several connections in turn, are recognised without being
    decoded; the rules stay the same."""

    @pytest.fixture(params=["A", ""])
    def service(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture(params=[1, 3], autouse=True)
    def connections(self, request: pytest.FixtureRequest) -> None:
        self.count = int(request.param)

    def warm(self, tunnel: Tunnel, service: str) -> None:
        feed(tunnel.source, start(1, service))
        for number in [*range(1, self.count + 1)] * 4:
            frame = memoryview(DataHeader(1, service, number).build(7) + b"warm up")
            for end in (tunnel.source, tunnel.destination):
                end.frame_received(frame)
        tunnel.source_link.frames.clear()
        tunnel.destination_link.frames.clear()

    def test_they_pass(self, tunnel: Tunnel, service: str) -> None:
        self.warm(tunnel, service)
        for number in (2, 1, 3, 3, 7):
            frame = DataHeader(1, service, number).build(3) + b"one"
            tunnel.source.frame_received(memoryview(frame))
            feed(tunnel.source, data(b"two", 1, service, number))
            assert tunnel.destination_link.take() == [
                data(b"one", 1, service, number),
                data(b"two", 1, service, number),
            ]

    def test_more_connections_than_are_remembered(self, tunnel: Tunnel, service: str) -> None:
        self.warm(tunnel, service)
        for number in [*range(1, 300)] * 2:
            frame = DataHeader(1, service, number).build(3) + b"one"
            tunnel.source.frame_received(memoryview(frame))
            turn(tunnel.source)
        assert len(tunnel.destination_link.take()) == 598

    def test_messages_in_ascending_order(self, tunnel: Tunnel, service: str) -> None:
        self.warm(tunnel, service)
        sent = [data(b"one", 1, service, number) for number in (4, 5, 6)] * 3
        feed(tunnel.source, *sent)
        assert tunnel.destination_link.take() == sent

    def test_not_in_the_middle_of_another_message(self, tunnel: Tunnel, service: str) -> None:
        """A payload may look like a message, and come in a frame of its own."""
        self.warm(tunnel, service)
        inner = DataHeader(1, service, 1).build(4) + b"what"
        payload = b"before" + inner + b"after"
        outer = DataHeader(1, service, 1).build(len(payload)) + payload
        at = outer.index(inner)
        for frame in (inner, outer[:at], inner, b"after"):
            tunnel.source.frame_received(memoryview(frame))
        sent = [data(each, 1, service) for each in (b"what", payload)]
        assert tunnel.destination_link.take() == sent

    @pytest.mark.parametrize("who", ["source", "destination"])
    def test_not_after_a_reset(self, tunnel: Tunnel, service: str, who: str) -> None:
        self.warm(tunnel, service)
        feed(getattr(tunnel, who), reset(1, service))
        feed(tunnel.source, data(b"stale", 1, service))
        assert tunnel.destination_link.take() in ([], [reset(1, service)])

    def test_not_after_the_peer_left(self, tunnel: Tunnel, service: str) -> None:
        self.warm(tunnel, service)
        tunnel.destination.leave()
        _, link = tunnel.connect(Side.DESTINATION)
        feed(tunnel.source, data(b"stale", 1, service))
        assert link.take() == []

    def test_not_after_a_message_without_service_id(self, tunnel: Tunnel) -> None:
        self.warm(tunnel, "A")
        feed(tunnel.source, start(2, ""))
        with pytest.raises(RemoteProtocolError):
            feed(tunnel.source, data(b"named", 1, "A"))


class TestRefusing:
    """What the rules refuse (test_client_rules.py), however it arrives."""

    @pytest.mark.parametrize("side", list(Side))
    @pytest.mark.parametrize(
        "raw",
        [
            pytest.param(bytes.fromhex("0000"), id="length 0"),
            pytest.param(bytes.fromhex("00021001"), id="type 0"),
            pytest.param(service_ids_message(["A"]), id="SERVICE_IDS"),
            pytest.param(bytes.fromhex("0003ffffff"), id="garbage"),
        ],
    )
    @pytest.mark.parametrize("size", [1, 3, 100])
    def test_in_pieces_and_whole(self, tunnel: Tunnel, side: Side, raw: bytes, size: int) -> None:
        end = tunnel.source if side is Side.SOURCE else tunnel.destination
        with pytest.raises(RemoteProtocolError):
            for at in range(0, len(raw), size):
                end.frame_received(memoryview(raw[at : at + size]))

    @pytest.mark.parametrize("size", [1, 7, 1000])
    def test_what_was_legal_before_the_fault_has_passed(self, tunnel: Tunnel, size: int) -> None:
        feed(tunnel.source, start())
        tunnel.destination_link.frames.clear()
        sent = [data(b"fine"), data(b"too"), data(service="C"), data(b"lost")]
        run = b"".join(map(encode_delimited, sent))
        with pytest.raises(RemoteProtocolError, match="'C'"):
            for at in range(0, len(run), size):
                tunnel.source.frame_received(memoryview(run[at : at + size]))
        assert tunnel.destination_link.take() == sent[:2]


class TestDialects:
    def test_version_1_both_ways(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start(1, "", 0), data(b"up", 1, "", 0))
        feed(tunnel.destination, data(b"down", 1, "", 0), reset(1, "", 0))
        assert tunnel.destination_link.take() == [start(1, "", 0), data(b"up", 1, "", 0)]
        assert tunnel.source_link.take() == [data(b"down", 1, "", 0), reset(1, "", 0)]

    def test_an_old_destination_answers_a_named_start_without_name(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        feed(tunnel.destination, data(b"down", 1, "", 0))
        assert tunnel.source_link.take() == [data(b"down", 1, "", 0)]


class TestAbsentPeer:
    def test_a_start_is_answered_with_a_reset(self) -> None:
        switchboard = Switchboard()
        link = Recorder()
        source = new_end(link, Side.SOURCE)
        source.join(switchboard, "t", 1e9)
        feed(source, start(3), data(b"dropped", 3), start(4, "B", 0))
        assert link.take() == [reset(3), reset(4, "B", 0)]
        destination_link = Recorder()
        new_end(destination_link, Side.DESTINATION).join(switchboard, "t", 1e9)
        feed(source, data(b"of a refused stream", 3), start(5), data(b"kept", 5))
        assert destination_link.take() == [start(5), data(b"kept", 5)]

    def test_a_connection_on_a_dead_stream_is_answered_with_a_reset(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        tunnel.destination.leave()
        assert tunnel.source_link.take() == [reset()]
        _, link = tunnel.connect(Side.DESTINATION)
        feed(tunnel.source, Message(CONNECT, 1, "A", 2), data(b"late"), Message(HANG_UP, 1, "A", 1))
        assert tunnel.source_link.take() == [reset(connection=2)]
        assert link.take() == []

    def test_a_client_that_reads_nothing_gets_its_answers_later(self) -> None:
        link = Recorder()
        source = new_end(link, Side.SOURCE)
        source.join(Switchboard(), "t", 1e9)
        source.write_blocked()
        for stream in range(1, 1025):
            feed(source, start(stream))
        assert link.frames == []
        with pytest.raises(RemoteProtocolError, match="not read"):
            feed(source, start(2000))
        source.write_unblocked()
        assert link.take() == [reset(stream) for stream in [*range(1, 1025), 2000]]
        # It reads again, so that answers are sent at once; and only once.
        feed(source, start(3000))
        assert link.take() == [reset(3000)]
        source.write_blocked()
        source.write_unblocked()
        assert link.take() == []

    def test_nothing_is_answered_to_a_client_that_is_gone(self) -> None:
        link = Recorder()
        source = new_end(link, Side.SOURCE)
        source.join(Switchboard(), "t", 1e9)
        source.write_blocked()
        feed(source, start())
        source.leave()
        source.write_unblocked()
        assert link.frames == []


class TestReplacement:
    def test_the_destination_is_disconnected(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        tunnel.switchboard.disconnect("t", Side.DESTINATION, "rotated")
        assert tunnel.destination_link.closed == (1008, "rotated")
        assert tunnel.source_link.take() == [reset()]
        feed(tunnel.destination, data(b"late"))
        assert tunnel.source_link.take() == []

    def test_the_destination_is_replaced(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start(1, "A", 1), start(5, "B", 0))
        _, new = tunnel.connect(Side.DESTINATION)
        assert tunnel.destination_link.closed == (1008, "replaced by a newer connection")
        assert tunnel.source_link.frames == [
            encode_delimited(reset(1, "A", 1)),
            encode_delimited(reset(5, "B", 0)),
        ]
        feed(tunnel.destination, data(b"from the old one"))
        assert data(b"from the old one") not in tunnel.source_link.take()
        feed(tunnel.source, start(2))
        assert new.take() == [start(2)]

    def test_streams_that_were_reset_are_not_reset_again(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start(1), start(2, "B"))
        feed(tunnel.source, reset(1))
        feed(tunnel.destination, reset(2, "B"))
        tunnel.source_link.take()
        tunnel.connect(Side.DESTINATION)
        assert tunnel.source_link.take() == []

    def test_old_data_of_a_destination_does_not_reach_a_new_source(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        source, link = tunnel.connect(Side.SOURCE)
        assert tunnel.destination_link.take() == [start(), reset()]
        assert tunnel.destination_link.pings == [b"1"]
        feed(source, start())
        feed(tunnel.destination, data(b"sent before the reset came"), reset())
        assert link.take() == []
        tunnel.destination.pong_received(b"something else")
        feed(tunnel.destination, data(b"still old"))
        tunnel.destination.pong_received(b"1")
        feed(tunnel.destination, data(b"new"))
        assert link.take() == [data(b"new")]

    def test_data_of_a_stream_that_the_old_source_reset_does_not_reach_a_new_one(
        self, tunnel: Tunnel
    ) -> None:
        feed(tunnel.source, start(), reset())
        source, link = tunnel.connect(Side.SOURCE)
        assert tunnel.destination_link.pings == [b"1"]
        feed(source, start())
        feed(tunnel.destination, data(b"sent before the reset came"))
        tunnel.destination.pong_received(b"1")
        feed(tunnel.destination, data(b"new"))
        assert link.take() == [data(b"new")]

    def test_a_destination_without_streams_needs_no_fence(self, tunnel: Tunnel) -> None:
        source, link = tunnel.connect(Side.SOURCE)
        feed(source, start())
        feed(tunnel.destination, data(b"banner"))
        assert tunnel.destination_link.pings == []
        assert link.take() == [data(b"banner")]

    def test_a_destination_that_answers_no_ping_is_heard_again(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        source, link = tunnel.connect(Side.SOURCE)
        feed(source, start())
        tunnel.destination.sweep()
        feed(tunnel.destination, data(b"dropped"))
        tunnel.destination.sweep()
        feed(tunnel.destination, data(b"heard"))
        assert link.take() == [data(b"heard")]


class TestTurns:
    """What one turn of the loop may take, and what waits for the next."""

    def test_a_flood_of_tiny_messages_is_passed_on_in_parts(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        tunnel.destination_link.take()
        sent = [data(b"%d" % number) for number in range(5000)]
        stream = b"".join(map(encode_delimited, sent))
        tunnel.source.frame_received(memoryview(bytearray(stream)))
        # Behind what waits, however little it is.
        tunnel.source.frame_received(memoryview(encode_delimited(data(b"last"))))
        turns, received = 0, tunnel.destination_link.take()
        while tunnel.source.has_backlog:
            assert 0 < len(received) <= FULL_BUDGET
            turns += 1
            turn(tunnel.source)
            sent, passed = sent[len(received) :], sent[: len(received)]
            assert received == passed
            received = tunnel.destination_link.take()
        assert turns >= 4
        assert received == [*sent, data(b"last")]

    def test_messages_that_have_to_be_judged_count_for_more(self, tunnel: Tunnel) -> None:
        run = b"".join(encode_delimited(start(number)) for number in range(1, 1000))
        tunnel.source.frame_received(memoryview(run))
        assert 0 < len(tunnel.destination_link.frames) <= FULL_BUDGET // 32

    def test_frames_count_however_little_they_hold(self, tunnel: Tunnel) -> None:
        for _ in range(FULL_BUDGET):
            tunnel.source.frame_received(memoryview(b""))
        tunnel.source.frame_received(memoryview(encode_delimited(start())))
        assert tunnel.destination_link.take() == []
        catch_up(tunnel.source)
        assert tunnel.destination_link.take() == [start()]

    def test_large_messages_never_wait(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        frame = memoryview(encode_delimited(data(bytes(MAX_PAYLOAD))) * 2)
        for _ in range(8):
            tunnel.source.frame_received(frame)
        assert not tunnel.source.has_backlog

    def test_a_fault_is_found_in_its_turn(self, tunnel: Tunnel) -> None:
        sent = [start(number) for number in range(1, 500)] + [data(b"", 499)] * 20
        frames = b"".join(map(encode_delimited, [*sent, Message(MessageType.SESSION_RESET)]))
        tunnel.source.frame_received(memoryview(frames))
        with pytest.raises(RemoteProtocolError, match="type 4"):
            catch_up(tunnel.source)
        assert b"" not in tunnel.destination_link.frames
        assert tunnel.destination_link.take() == sent

    def test_what_things_cost(self, tunnel: Tunnel) -> None:
        budget = tunnel.source._turn_budget
        known = DataHeader(1, "A", 1).build(5) + b"hello"

        def cost(frame: bytes) -> int:
            budget.renew()
            tunnel.source.frame_received(memoryview(frame))
            assert not tunnel.source.has_backlog
            return FULL_BUDGET - budget.left

        assert cost(b"") == FRAME_COST
        assert cost(encode_delimited(start())) == FRAME_COST + JUDGED_COST + ROUTED_COST
        for _ in range(2):
            assert cost(known) == FRAME_COST + JUDGED_COST
        assert cost(known) == FRAME_COST + 1
        assert cost(known * 3) == FRAME_COST + 3
        assert cost(known + encode_delimited(Message(HANG_UP, 1, "A", 9))) == (
            FRAME_COST + 1 + JUDGED_COST
        )
        assert cost(known[:5]) == FRAME_COST
        assert cost(known[5:] + known) == FRAME_COST + 1

    @pytest.mark.parametrize(("left", "passes"), [(2, True), (1, True), (0, False), (-5, False)])
    def test_a_frame_is_handled_with_anything_left(
        self, tunnel: Tunnel, left: int, passes: bool
    ) -> None:
        tunnel.source._turn_budget.left = left
        tunnel.source.frame_received(memoryview(encode_delimited(start())))
        assert (tunnel.destination_link.take() == [start()]) is passes
        assert tunnel.source.has_backlog is not passes
        catch_up(tunnel.source)
        assert tunnel.destination_link.take() == ([] if passes else [start()])

    @pytest.mark.parametrize("most", [1, 2, 3])
    def test_a_turn_ends_with_the_budget(self, tunnel: Tunnel, most: int) -> None:
        feed(tunnel.source, start())
        known = DataHeader(1, "A", 1).build(5) + b"hello"
        for _ in range(2):
            tunnel.source.frame_received(memoryview(known))
        tunnel.destination_link.frames.clear()
        tunnel.source._turn_budget.left = FRAME_COST + most
        tunnel.source.frame_received(memoryview(known * 5))
        assert tunnel.destination_link.frames == [known * most]

    def test_frames_stay_behind_the_backlog_with_budget_left(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        tunnel.destination_link.take()
        budget = tunnel.source._turn_budget
        for payload in (b"first", b"second"):
            tunnel.source.frame_received(memoryview(encode_delimited(data(payload))))
            budget.left = 0
            tunnel.source.frame_received(memoryview(encode_delimited(data(b"waits"))))
            budget.renew()
            tunnel.source.frame_received(memoryview(encode_delimited(data(b"behind"))))
            assert tunnel.destination_link.take() == [data(payload)]
            catch_up(tunnel.source)
            assert tunnel.destination_link.take() == [data(b"waits"), data(b"behind")]

    def test_the_answer_to_a_fence_comes_behind_what_waits(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start())
        source, link = tunnel.connect(Side.SOURCE)
        feed(source, start())
        old = b"".join(encode_delimited(data(b"old %d" % number)) for number in range(5000))
        tunnel.destination.frame_received(memoryview(old))
        tunnel.destination.pong_received(b"1")
        tunnel.destination.frame_received(memoryview(encode_delimited(data(b"new"))))
        catch_up(tunnel.destination)
        assert link.take() == [data(b"new")]

    def test_nothing_waits_for_a_tunnel_that_has_ended(self, tunnel: Tunnel) -> None:
        run = b"".join(encode_delimited(start(number)) for number in range(1, 1000))
        for end in (
            lambda: tunnel.source.leave(),
            lambda: tunnel.switchboard.close_tunnel("t", "over"),
        ):
            tunnel.source.frame_received(memoryview(run))
            assert tunnel.source.has_backlog
            end()
            assert not tunnel.source.has_backlog
            turn(tunnel.source)
            tunnel.source.join(tunnel.switchboard, "t", 1e9)


class TestFlow:
    def test_a_blocked_client_stops_the_other_one(self, tunnel: Tunnel) -> None:
        tunnel.destination.write_blocked()
        assert not tunnel.source_link.reading
        assert tunnel.destination_link.reading
        tunnel.destination.write_unblocked()
        assert tunnel.source_link.reading

    def test_a_blocked_client_that_leaves_frees_the_other_one(self, tunnel: Tunnel) -> None:
        tunnel.destination.write_blocked()
        tunnel.destination.leave()
        assert tunnel.source_link.reading

    def test_a_client_that_is_not_read_is_pinged(self, tunnel: Tunnel) -> None:
        tunnel.source.sweep()
        assert tunnel.source_link.pings == []
        tunnel.destination.write_blocked()
        tunnel.source.sweep()
        assert tunnel.source_link.pings == [b"0"]

    def test_streams_are_remembered_within_bounds(self, tunnel: Tunnel) -> None:
        for stream in range(1, 2001):
            feed(tunnel.source, start(stream))
        tunnel.source_link.take()
        tunnel.destination.leave()
        assert [m.stream_id for m in tunnel.source_link.take()] == list(range(977, 2001))


class TestFlowMessages:
    """They pass between proxies of this project; others neither get nor send any."""

    PAUSE = Message(MessageType.CONNECTION_PAUSE, 1, "A", 1, ignorable=True)
    RESUME = PAUSE._replace(type=MessageType.CONNECTION_RESUME)

    def tunnel(self, source: bool, destination: bool) -> Tunnel:
        """Return a tunnel with a stream; say which of its clients are ours."""
        tunnel = Tunnel()
        tunnel.source, tunnel.source_link = tunnel.connect(Side.SOURCE, has_flow=source)
        tunnel.destination, tunnel.destination_link = tunnel.connect(
            Side.DESTINATION, has_flow=destination
        )
        feed(tunnel.source, start())
        assert tunnel.destination_link.take() == [start()]
        return tunnel

    @pytest.mark.parametrize("source", [True, False])
    @pytest.mark.parametrize("destination", [True, False])
    def test_they_pass_in_their_place_between_two_of_ours(
        self, source: bool, destination: bool
    ) -> None:
        tunnel = self.tunnel(source, destination)
        between = [self.PAUSE, self.RESUME] if source and destination else []
        feed(tunnel.source, data(b"a"), self.PAUSE, self.RESUME, data(b"b"))
        assert tunnel.destination_link.take() == [data(b"a"), *between, data(b"b")]
        feed(tunnel.destination, data(b"a"), self.PAUSE, self.RESUME, data(b"b"))
        assert tunnel.source_link.take() == [data(b"a"), *between, data(b"b")]

    def test_they_are_recognised_when_they_come_in_pieces(self) -> None:
        tunnel = self.tunnel(True, True)
        frame = encode_delimited(self.PAUSE)
        for at in range(len(frame)):
            tunnel.source.frame_received(memoryview(frame[at : at + 1]))
        assert tunnel.destination_link.take() == [self.PAUSE]

    def test_unknown_messages_do_not_pass_as_such(self) -> None:
        tunnel = self.tunnel(True, True)
        for end in (tunnel.source, tunnel.destination):
            feed(end, self.PAUSE._replace(type=99), data())
        assert tunnel.destination_link.take() == tunnel.source_link.take() == [data()]

    def test_they_change_nothing_about_the_stream(self) -> None:
        tunnel = self.tunnel(True, True)
        feed(tunnel.source, self.PAUSE)
        feed(tunnel.source, data())
        assert tunnel.destination_link.take() == [self.PAUSE, data()]

    def test_an_old_destination_may_leave_out_the_service_id(self) -> None:
        tunnel = self.tunnel(True, True)
        unnamed = self.PAUSE._replace(service_id="")
        feed(tunnel.destination, unnamed)
        assert tunnel.source_link.take() == [unnamed]

    def test_those_of_a_stream_that_is_over_are_dropped(self) -> None:
        tunnel = self.tunnel(True, True)
        tunnel.destination.leave()
        feed(tunnel.source, self.PAUSE)
        _, link = tunnel.connect(Side.DESTINATION, has_flow=True)
        feed(tunnel.source, self.PAUSE, self.RESUME)
        assert link.take() == []

    def test_those_of_an_old_source_s_streams_do_not_reach_a_new_one(self) -> None:
        tunnel = self.tunnel(True, True)
        source, link = tunnel.connect(Side.SOURCE, has_flow=True)
        feed(source, start())
        feed(tunnel.destination, self.PAUSE)
        assert link.take() == []
        tunnel.destination.pong_received(tunnel.destination_link.pings[-1])
        feed(tunnel.destination, self.PAUSE)
        assert link.take() == [self.PAUSE]

    @pytest.mark.parametrize("kind", sorted(RESUME_MESSAGES))
    def test_those_of_resumption_are_unknown(self, kind: MessageType) -> None:
        """To clients that have not offered to go on over lost links."""
        tunnel = self.tunnel(True, True)
        odd = Message(kind, 1, "A", 1, b"payload", ignorable=True)
        for message in (odd, odd._replace(stream_id=0, service_id="", connection_id=0)):
            feed(tunnel.source, message, data())
            assert tunnel.destination_link.take() == [data()]
            feed(tunnel.destination, message)
            assert tunnel.source_link.take() == []
        with pytest.raises(RemoteProtocolError, match=f"type {kind}"):
            feed(tunnel.source, odd._replace(ignorable=False))

    @pytest.mark.parametrize("has_flow", [True, False])
    def test_one_that_is_not_ignorable_is_refused(self, has_flow: bool) -> None:
        tunnel = self.tunnel(has_flow, has_flow)
        with pytest.raises(RemoteProtocolError, match="type 1001"):
            feed(tunnel.source, self.PAUSE._replace(ignorable=False))

    @pytest.mark.parametrize("has_flow", [True, False])
    def test_one_that_names_nothing_is_as_harmless_as_any_unknown_message(
        self, has_flow: bool
    ) -> None:
        tunnel = self.tunnel(has_flow, has_flow)
        for odd in (
            Message(1001, ignorable=True),
            Message(1001, -1, "A", ignorable=True),
            Message(1002, 1, "C", ignorable=True),
            Message(1002, 9, "A", 1, ignorable=True),
        ):
            feed(tunnel.source, odd, data())
            assert tunnel.destination_link.take() == [data()]


class TestPresence:
    """Proxies of this project are told whether the other side is connected, and what it is."""

    NOBODY = Message(MessageType.PEER_LEFT, ignorable=True)
    STRANGER = Message(MessageType.PEER_JOINED, ignorable=True)
    OURS = STRANGER._replace(payload=b"1")

    def told(self, link: Recorder) -> list[Message]:
        assert link.take() == []
        told, link.told = link.told, []
        return told

    @pytest.mark.parametrize("side", list(Side))
    def test_one_of_ours_follows_who_comes_and_goes(self, side: Side) -> None:
        tunnel = Tunnel()
        tunnel.source.leave()
        tunnel.destination.leave()
        _, link = tunnel.connect(side, has_flow=True)
        assert self.told(link) == [self.NOBODY]
        stranger, far = tunnel.connect(side.other)
        assert self.told(link) == [self.STRANGER]
        stranger.leave()
        assert self.told(link) == [self.NOBODY]
        _, ours = tunnel.connect(side.other, has_flow=True)
        assert self.told(link) == [self.OURS]
        assert self.told(ours) == [self.OURS]
        tunnel.connect(side.other)
        assert self.told(link) == [self.NOBODY, self.STRANGER]
        assert self.told(far) == []

    def test_one_that_does_not_read_is_told_the_latest_once_it_does(self) -> None:
        tunnel = Tunnel()
        source, link = tunnel.connect(Side.SOURCE, has_flow=True)
        source.write_blocked()
        for _ in range(1000):
            tunnel.connect(Side.DESTINATION)
        assert self.told(link) == [self.STRANGER]
        source.write_unblocked()
        assert self.told(link) == [self.STRANGER]
        source.write_blocked()
        source.write_unblocked()
        assert self.told(link) == []

    @pytest.mark.parametrize("has_flow", [True, False])
    def test_no_client_may_say_so(self, has_flow: bool) -> None:
        tunnel = Tunnel()
        source, _ = tunnel.connect(Side.SOURCE, has_flow=has_flow)
        with pytest.raises(RemoteProtocolError, match="type 1003"):
            feed(source, self.OURS)


class TestWhy:
    """Resets tell proxies of this project why; to all others they are what they were."""

    @pytest.mark.parametrize(
        ("has_flow", "why"), [(True, b"no destination is connected"), (False, b"")]
    )
    def test_a_start_without_a_peer(self, has_flow: bool, why: bytes) -> None:
        tunnel = Tunnel()
        tunnel.destination.leave()
        source, link = tunnel.connect(Side.SOURCE, has_flow=has_flow)
        feed(source, start())
        assert link.take() == [reset(connection=1)._replace(payload=why)]
        source.write_blocked()
        feed(source, start(2))
        source.write_unblocked()
        assert link.take() == [reset(2, connection=1)._replace(payload=why)]

    @pytest.mark.parametrize(("has_flow", "why"), [(True, b"the source has left"), (False, b"")])
    def test_a_peer_that_leaves(self, has_flow: bool, why: bytes) -> None:
        tunnel = Tunnel()
        tunnel.destination, link = tunnel.connect(Side.DESTINATION, has_flow=has_flow)
        feed(tunnel.source, start())
        assert link.take() == [start()]
        tunnel.source.leave()
        assert link.take() == [reset(connection=1)._replace(payload=why)]


def test_closing_the_tunnel_ends_both_sides(tunnel: Tunnel) -> None:
    tunnel.switchboard.close_tunnel("t", "over")
    assert tunnel.source_link.closed == (1000, "over")
    assert tunnel.destination_link.closed == (1000, "over")
    tunnel.source.leave()
    tunnel.source.write_blocked()
    tunnel.source.write_unblocked()
    feed(tunnel.source, start(), reset())
    assert tunnel.destination_link.frames == []


@settings(deadline=None, max_examples=300)
@given(
    frames=st.lists(st.binary(max_size=60), max_size=8),
    side=st.sampled_from(list(Side)),
)
def test_garbage_is_refused_in_our_terms(frames: list[bytes], side: Side) -> None:
    tunnel = Tunnel()
    feed(tunnel.source, start())
    end = tunnel.source if side is Side.SOURCE else tunnel.destination
    try:
        for frame in frames:
            end.frame_received(memoryview(frame))
            turn(end)
    except RemoteProtocolError:
        pass


class TestCounting:
    @pytest.mark.parametrize("form", ["ascending", "payload last"])
    def test_messages_and_bytes_however_they_are_framed(self, tunnel: Tunnel, form: str) -> None:
        feed(tunnel.source, start())
        message = encode_delimited(data(b"some payload"))
        if form == "payload last":
            message = DataHeader(1, "A", 1).build(12) + b"some payload"
        run = message * 20
        for size in (len(run), 3, 17, len(message)):
            for at in range(0, len(run), size):
                tunnel.source.frame_received(memoryview(run[at : at + size]))
            catch_up(tunnel.source)
        traffic = tunnel.counters.traffic[Side.SOURCE]
        assert traffic.messages == 81
        assert traffic.bytes == 4 * len(run) + len(encode_delimited(start()))
        assert tunnel.counters.traffic[Side.DESTINATION].messages == 0

    def test_resets_by_cause(self, tunnel: Tunnel) -> None:
        feed(tunnel.source, start(1), start(2, "B"), reset(2, "B"))
        feed(tunnel.destination, reset(1))
        feed(tunnel.source, start(3), start(4, "B"))
        tunnel.destination.leave()
        feed(tunnel.source, start(5))
        assert tunnel.counters.resets == {
            ResetCause.SOURCE: 1,
            ResetCause.DESTINATION: 1,
            ResetCause.PEER_LEFT: 2,
            ResetCause.PEER_ABSENT: 1,
        }


class TestResumption:
    """Two clients that go on over lost links by themselves."""

    OFFER = Message(MessageType.SESSION_OFFER, payload=b"an offer", ignorable=True)
    ACK = Message(MessageType.CONNECTION_ACK, 1, "A", 1, b"so far", ignorable=True)
    FIN = ACK._replace(type=MessageType.CONNECTION_FIN)
    LEFT = Message(MessageType.PEER_LEFT, ignorable=True)

    def tunnel(self, destination: Capabilities = PASSED_ON) -> Tunnel:
        """Return a tunnel with a stream, whose source goes on."""
        tunnel = Tunnel()
        tunnel.source, tunnel.source_link = tunnel.connect(Side.SOURCE, capabilities=PASSED_ON)
        tunnel.destination, tunnel.destination_link = tunnel.connect(
            Side.DESTINATION, capabilities=destination
        )
        feed(tunnel.source, start())
        assert tunnel.destination_link.take() == [start()]
        return tunnel

    def test_their_messages_pass_in_their_place(self) -> None:
        tunnel = self.tunnel()
        feed(tunnel.source, data(), self.OFFER, self.ACK, data(), self.FIN)
        sent = [data(), self.OFFER, self.ACK, data(), self.FIN]
        assert tunnel.destination_link.take() == sent
        feed(tunnel.destination, *sent)
        assert tunnel.source_link.take() == sent
        assert tunnel.counters.offers == 2

    @pytest.mark.parametrize("others", [NO_CAPABILITIES, FLOW])
    def test_nobody_else_sees_or_sends_any(self, others: Capabilities) -> None:
        tunnel = self.tunnel(others)
        messages = (self.OFFER, self.ACK, self.FIN)
        feed(tunnel.source, *messages)
        assert tunnel.destination_link.frames == []
        feed(tunnel.destination, *messages)
        assert tunnel.source_link.take() == []
        assert tunnel.counters.offers == 0

    def test_acknowledgements_are_recognised(self) -> None:
        tunnel = self.tunnel()
        raw = memoryview(encode(self.ACK))
        for end in (tunnel.source, tunnel.destination):
            for known in (False, False, True):
                assert (end.known.find(raw) is not None) is known
                feed(end, self.ACK)
        assert tunnel.destination_link.take() == [self.ACK] * 3
        assert tunnel.source_link.take() == [self.ACK] * 3

    def test_none_is_recognised_of_a_stream_that_is_not_open(self) -> None:
        """Its names may be of any length, and what is recognised is remembered."""
        tunnel = self.tunnel()
        tunnel.source_link.take()
        strange = [self.ACK._replace(service_id="x" * 60_000), self.ACK._replace(stream_id=9)]
        for ack in strange:
            feed(tunnel.source, *[ack] * 3)
            feed(tunnel.destination, *[ack] * 3)
            for end in (tunnel.source, tunnel.destination):
                assert end.known.find(memoryview(encode(ack))) is None
                assert not end._rules._seen_routings
        assert tunnel.destination_link.take() == []
        assert tunnel.source_link.take() == [ack for ack in strange for _ in range(3)]

    def test_many_acknowledgements_stay_in_one_frame(self) -> None:
        tunnel = self.tunnel()
        frame = b"".join(
            encode_delimited(self.ACK._replace(connection_id=number)) for number in range(1, 9)
        )
        for end, link in (
            (tunnel.source, tunnel.destination_link),
            (tunnel.destination, tunnel.source_link),
        ):
            link.frames.clear()
            end.frame_received(memoryview(frame))
            assert link.frames == [frame]

    def test_those_that_are_recognised_are_judged_again_after_a_change(self) -> None:
        tunnel = self.tunnel()
        feed(tunnel.source, *[self.ACK] * 3)
        feed(tunnel.destination, *[self.ACK] * 3)
        feed(tunnel.source, Message(MessageType.STREAM_RESET, 1, "A"))
        tunnel.destination_link.take()
        feed(tunnel.source, self.ACK)
        assert tunnel.destination_link.take() == []
        feed(tunnel.source, start(), *[self.ACK] * 3)
        tunnel.destination.leave()
        _, link = tunnel.connect(Side.DESTINATION, capabilities=FLOW)
        tunnel.source.pong_received(tunnel.source_link.pings[-1])
        feed(tunnel.source, start(), *[self.ACK] * 3)
        assert link.take() == [start()]

    @pytest.mark.parametrize("others", [NO_CAPABILITIES, FLOW])
    def test_none_is_recognised_from_or_for_anybody_else(self, others: Capabilities) -> None:
        tunnel = self.tunnel(others)
        for end in (tunnel.source, tunnel.destination):
            feed(end, *[self.ACK] * 3)
            assert end.known.find(memoryview(encode(self.ACK))) is None

    def test_those_of_a_stream_that_is_over_are_dropped(self) -> None:
        tunnel = self.tunnel()
        feed(tunnel.source, self.ACK._replace(stream_id=9), self.OFFER)
        assert tunnel.destination_link.take() == [self.OFFER]

    def test_a_peer_that_leaves_is_told_of_and_no_stream_is_reset(self) -> None:
        tunnel = self.tunnel()
        tunnel.source_link.take()
        tunnel.source_link.told.clear()
        tunnel.destination.leave()
        assert tunnel.source_link.take() == []
        assert tunnel.source_link.told == [self.LEFT]
        assert not tunnel.counters.resets[ResetCause.PEER_LEFT]
        assert tunnel.counters.suspended == 1
        feed(tunnel.source, self.OFFER)
        assert tunnel.counters.offers == 0
        # The stream is forgotten: its data goes nowhere, and it can be started again.
        _, link = tunnel.connect(Side.DESTINATION, capabilities=PASSED_ON)
        tunnel.source.pong_received(tunnel.source_link.pings[-1])
        feed(tunnel.source, data(), self.ACK)
        assert link.take() == []
        feed(tunnel.source, start(), data())
        assert link.take() == [start(), data()]

    def test_what_a_source_sends_before_it_knows_is_not_for_the_next_peer(self) -> None:
        tunnel = self.tunnel()
        tunnel.destination.leave()
        tunnel.source_link.take()
        _, link = tunnel.connect(Side.DESTINATION)
        more = start()._replace(type=MessageType.CONNECTION_START, connection_id=2)
        feed(tunnel.source, start(), data(), more, self.OFFER, start(2, "B"), data(b"x", 2, "B"))
        assert link.take() == []
        assert tunnel.source_link.take() == []
        tunnel.source.pong_received(tunnel.source_link.pings[-1])
        feed(tunnel.source, start(2), data(b"x", 2))
        assert link.take() == [start(2), data(b"x", 2)]

    @pytest.mark.parametrize("others", [NO_CAPABILITIES, FLOW])
    def test_streams_with_anybody_else_are_reset(self, others: Capabilities) -> None:
        tunnel = self.tunnel(others)
        tunnel.destination.leave()
        assert [each.type for each in tunnel.source_link.take()] == [MessageType.STREAM_RESET]
        assert tunnel.counters.resets[ResetCause.PEER_LEFT] == 1
        assert tunnel.counters.suspended == 0

    def test_a_source_that_leaves_puts_up_the_fence(self) -> None:
        tunnel = self.tunnel()
        tunnel.destination_link.take()
        source, link = tunnel.connect(Side.SOURCE, capabilities=PASSED_ON)
        assert tunnel.destination_link.take() == []
        assert tunnel.destination_link.told[-2] == self.LEFT
        feed(tunnel.destination, self.OFFER, data())
        assert link.take() == []
        tunnel.destination.pong_received(tunnel.destination_link.pings[-1])
        feed(tunnel.destination, self.OFFER)
        assert link.take() == [self.OFFER]
        feed(source, self.OFFER)
        assert tunnel.destination_link.take() == [self.OFFER]

    def test_who_does_not_read_is_told_ahead_of_what_the_next_peer_sends(self) -> None:
        tunnel = self.tunnel()
        tunnel.destination_link.take()
        tunnel.destination_link.told.clear()
        tunnel.destination.write_blocked()
        source, _ = tunnel.connect(Side.SOURCE, capabilities=PASSED_ON)
        assert tunnel.destination_link.take() == []
        assert tunnel.destination_link.told == [self.LEFT]
        feed(source, self.OFFER)
        assert tunnel.destination_link.take() == [self.OFFER]
        tunnel.destination.write_unblocked()
        tunnel.destination_link.take()
        assert [each.type for each in tunnel.destination_link.told] == [
            MessageType.PEER_LEFT,
            MessageType.PEER_JOINED,
        ]

    @pytest.mark.parametrize(
        ("peer", "words"), [(PASSED_ON, b"flow, resume"), (FLOW, b"flow"), (NO_CAPABILITIES, b"")]
    )
    def test_they_are_told_what_the_other_side_can_do(
        self, peer: Capabilities, words: bytes
    ) -> None:
        tunnel = self.tunnel(peer)
        tunnel.source_link.take()
        assert tunnel.source_link.told[-1].payload == words
