"""The compiled extension beside the Python that it stands in for: the same bytes and counts."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from importlib import import_module
from struct import Struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picows import WSMsgType
from picows.picows import _make_test_ws_frame

from support.network.frames import BINARY, CONTINUATION, PING, frame
from support.plugins.leaks import uncollected
from support.service.memory_links import Bytes, Full, Join, Leave, Outcome, Step, Turn, run_steps
from support.service.relay_steps import relay_steps
from support.tunnel.memory_ends import play
from tailrace.common.counts import Pump, Way
from tailrace.common.extension import load, why_not
from tailrace.errors import RemoteProtocolError
from tailrace.service.relay.client_link import ClientLink
from tailrace.session import Block, Counts
from tailrace.wire import (
    ConnectionIndex,
    DataHeader,
    Message,
    MessageType,
    Side,
    decode,
    encode_delimited,
)

fast = load()
Outlet = object if fast is None else import_module("tailrace._core").Outlet

pytestmark = pytest.mark.skipif(fast is None, reason=f"no compiled extension: {why_not()}")

SOURCE, DESTINATION = Side.SOURCE, Side.DESTINATION


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of made-up clients are logged, and nobody reads it."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def start(stream: int = 1) -> bytes:
    message = Message(MessageType.STREAM_START, stream, "A", 1)
    return frame(BINARY, encode_delimited(message), masked=True)


def message(payload: bytes, stream: int = 1) -> bytes:
    return DataHeader(stream, "A", 1).build(len(payload)) + payload


def data(payload: bytes, stream: int = 1) -> bytes:
    return frame(BINARY, message(payload, stream), masked=True)


class TestRelayGate:
    """Frames that go from link to link."""

    @settings(max_examples=150)
    @given(relay_steps())
    def test_the_same_comes_of_everything(self, steps: tuple[Step, ...]) -> None:
        assert run_steps(steps, compiled=True) == run_steps(steps, compiled=False)

    def both(self, monkeypatch: pytest.MonkeyPatch, *steps: Step) -> tuple[Outcome, list[int]]:
        """Return what comes of steps both ways, and the sizes of the frames seen by Python."""
        seen: list[int] = []
        original = ClientLink.on_ws_frame

        def on_ws_frame(link: ClientLink, transport: Any, frame: Any) -> None:
            seen.append(frame.payload_size)
            original(link, transport, frame)

        by_python = run_steps(steps, compiled=False)
        with monkeypatch.context() as patch:
            patch.setattr(ClientLink, "on_ws_frame", on_ws_frame)
            assert run_steps(steps, compiled=True) == by_python
        return by_python, seen

    JOINED = (Join(SOURCE, False), Join(DESTINATION, False), Bytes(SOURCE, start()))
    KNOWN = (*JOINED, *(Bytes(SOURCE, data(b"12")) for _ in range(3)))
    """Python sees the start and three messages: the second is learned, the third recognised."""

    def test_known_messages_pass_without_python(self, monkeypatch: pytest.MonkeyPatch) -> None:
        passed = [data(b"1"), data(bytes(64_512)), frame(BINARY, message(b"x") * 9, masked=True)]
        outcome, seen = self.both(
            monkeypatch, *self.KNOWN, *(Bytes(SOURCE, each) for each in passed)
        )
        assert len(seen) == 4
        assert outcome.traffic[SOURCE][0] == 1 + 3 + 1 + 1 + 9

    @pytest.mark.parametrize(
        "other",
        [
            start(2),
            data(b"x", 2),
            frame(BINARY, encode_delimited(Message(MessageType.DATA, 1, "A", 1)), masked=True),
            frame(BINARY, b"", masked=True),
            frame(BINARY, message(b"12")[:5], masked=True)
            + frame(BINARY, message(b"12")[5:], masked=True),
            frame(BINARY, message(b"12") + start(3)[6:], masked=True),
            frame(BINARY, message(b"12") + b"\0", masked=True),
            frame(BINARY, message(b"12")[:-1], masked=True),
        ],
        ids=["start", "unknown", "no payload", "empty", "cut", "mixed", "with a rest", "too short"],
    )
    def test_anything_else_goes_to_python(
        self, monkeypatch: pytest.MonkeyPatch, other: bytes
    ) -> None:
        steps = [*self.KNOWN, Bytes(SOURCE, other), Bytes(SOURCE, data(b"34")), Turn()]
        _, seen = self.both(monkeypatch, *steps)
        assert len(seen) > 5

    def test_a_ping_between_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ping = Bytes(SOURCE, frame(PING, b"?", masked=True))
        _, seen = self.both(monkeypatch, *self.KNOWN, ping, Bytes(SOURCE, data(b"34")))
        assert seen[-1] == len(b"?")

    def test_a_whole_message_in_a_fragment_opens_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A fragment must be continued, so that another first frame is a fault."""
        fragment = frame(BINARY, message(b"12"), fin=False, masked=True)
        outcome, _ = self.both(
            monkeypatch, *self.KNOWN, Bytes(SOURCE, fragment), Bytes(SOURCE, data(b"34"))
        )
        assert outcome.causes[0] == "protocol_error"
        rest = frame(CONTINUATION, message(b"34"), masked=True)
        _, seen = self.both(
            monkeypatch,
            *(*self.KNOWN, Bytes(SOURCE, fragment), Bytes(SOURCE, rest)),
            *(Bytes(SOURCE, data(b"56")),),
        )
        assert len(seen) == 6

    def test_a_turn_ends_as_it_does_in_python(self, monkeypatch: pytest.MonkeyPatch) -> None:
        many = [Bytes(SOURCE, data(bytes(number))) for number in range(1, 400)]
        _, seen = self.both(monkeypatch, *self.KNOWN, *many, Turn(3), *many)
        assert len(seen) > 100

    def test_what_a_side_cannot_take_is_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = [*self.KNOWN, Full(DESTINATION), Bytes(SOURCE, data(b"34")), Turn()]
        outcome, _ = self.both(monkeypatch, *steps, Full(DESTINATION, False), Turn())
        assert [each for each in outcome.done[0] if isinstance(each, str)] == ["not read", "read"]

    def test_a_new_client_gets_nothing_of_the_old_ones(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = [*self.KNOWN, Bytes(DESTINATION, 3 * data(b"78")), Join(SOURCE, False), Turn()]
        outcome, _ = self.both(monkeypatch, *steps, Bytes(DESTINATION, data(b"late")), Turn())
        assert len(outcome.done[2]) > 1
        assert not any(b"late" in each for each in outcome.done[2])

    def test_links_are_freed_with_their_connection(self) -> None:
        run_steps(self.KNOWN, compiled=True)  # imports and caches
        with uncollected(ClientLink, fast.RelayGate) as living:
            run_steps(
                (*self.KNOWN, Bytes(DESTINATION, 4 * data(b"1")), Turn(), Leave(SOURCE)),
                compiled=True,
            )
            assert living() == []

    def test_misuse_raises(self) -> None:
        gate = fast.RelayGate(None)
        with pytest.raises(TypeError):
            gate.begin(None, None, None, None, None)
        with pytest.raises(TypeError):
            gate.open(object())
        gate.open(gate)
        gate.shut()
        with pytest.raises(TypeError):
            gate.on_ws_frame(None, 1)


class TestLinkGate:
    """Data between the link of an end and the sockets of its connections."""

    @settings(max_examples=40)
    @given(st.integers(0, 2**32))
    def test_the_same_comes_of_everything(self, seed: int) -> None:
        assert play(seed, compiled=True) == play(seed, compiled=False)

    def test_much_passes_without_python(self) -> None:
        seen = [sum(play(seed, compiled=way).seen for seed in range(20)) for way in (True, False)]
        assert seen[0] < 0.9 * seen[1]

    def test_an_error_ends_the_link(self) -> None:
        """As Python's do: what a mark finds wrong must not get lost in picows."""
        failed: list[Exception] = []

        class Link:
            handler_failed = failed.append

            def frame_arrived(self, transport: Any, frame: Any) -> None:
                raise AssertionError

        class Broken(Pump):
            def mark_reached(self) -> None:
                raise RemoteProtocolError("more than was allowed")

        ours, theirs = socket.socketpair()
        with ours, theirs:
            pump = Broken()
            pump.fd, pump.takes, pump._counts = ours.fileno(), True, Counts(ack_at=5)
            index: ConnectionIndex[Pump] = ConnectionIndex()
            body = memoryview(message(b"12345"))[2:]
            index.add(body, decode(body), pump)
            gate = fast.LinkGate(Link())
            gate.open(index)
            arrived = _make_test_ws_frame(WSMsgType.BINARY, message(b"12345"), True, False)
            gate.on_ws_frame(None, arrived)
            assert theirs.recv(10) == b"12345"
        assert [str(each) for each in failed] == ["more than was allowed"]

    def test_misuse_raises(self) -> None:
        for kind in (fast.LinkOutlet, fast.Wire):
            with pytest.raises(TypeError):
                kind(None, None, None)
        gate = fast.LinkGate(None)
        with pytest.raises(AttributeError):
            gate.open(None)
        gate.on_ws_frame(None, _make_test_ws_frame(WSMsgType.BINARY, b"x", True, False))


class TestPump:
    """What a connection whose parts are missing does, instead of touching memory."""

    def test_misuse_raises(self) -> None:
        pump = Pump()
        with pytest.raises((AttributeError, TypeError)):
            pump.readable()
        with pytest.raises(TypeError):
            pump._outbound = object()
        with pytest.raises(TypeError):
            pump._counts = 5

    def test_where_nothing_may_be_sent_python_reads(self) -> None:
        class Reader(Pump):
            read = 0

            def _readable(self) -> None:
                Reader.read += 1

        pump, way, counts = Reader(), Way(), Counts()
        way.block, way.budget, way.gap, way.outlet = Block(100), 10, Block.GAP, Outlet()
        counts.room = 0
        pump.connection = SimpleNamespace(header=DataHeader(1, "A", 1), is_open=True)
        pump._outbound, pump._counts = way, counts
        pump.readable()
        counts.room = 1000
        for way.budget in (0, -1, 101, 2**40):
            pump.readable()
        way.budget, way.gap = 10, 8
        pump.readable()
        way.gap, way.outlet = Block.GAP, None
        pump.readable()
        pump.connection.is_open = False
        pump.readable()
        assert Reader.read == 8


class TestHeads:
    """Looking up what begins with known bytes; more in tests/unit/wire/test_fastpath.py."""

    @given(st.binary(max_size=30), st.integers(0, 3))
    def test_any_bytes(self, body: bytes, known: int) -> None:
        index: ConnectionIndex[int] = ConnectionIndex()
        for number in range(known):
            head = bytes(range(number + 1))
            index.prefixes[head] = {b"": number, body[3:]: 9}
            index.readers.append((len(head), Struct(f">H{len(head)}sB").unpack_from))
        for sent in (body, bytes(range(known)) + body):
            assert fast.Heads(index).look_up(sent) == index.find(memoryview(sent))

    def test_misuse_raises(self) -> None:
        with pytest.raises(AttributeError):
            fast.Heads(None)
        with pytest.raises(TypeError):
            fast.Heads(ConnectionIndex()).look_up(None)


class TestReadLimiter:
    """What is offered to a transport; on real ones in test_read_gate.py."""

    class Inner:
        def __init__(self, memory: Any) -> None:
            self.memory = memory
            self.calls: list[Any] = []

        def get_buffer(self, hint: int) -> Any:
            return self.memory

        def __getattr__(self, name: str) -> Any:
            return lambda *given: self.calls.append((name, *given))

    def test_no_more_than_asked_for(self) -> None:
        inner = self.Inner(memoryview(bytearray(100)))
        limiter = fast.ReadLimiter(inner, 10)
        assert len(limiter.get_buffer(-1)) == 10
        limiter.read_size = 1000
        assert len(limiter.get_buffer(-1)) == 100
        assert limiter.is_buffered_protocol()

    def test_everything_else_is_passed_on(self) -> None:
        inner = self.Inner(None)
        limiter = fast.ReadLimiter(inner, 10)
        error = OSError()
        limiter.buffer_updated(7)
        limiter.eof_received()
        limiter.pause_writing()
        limiter.resume_writing()
        limiter.connection_lost(error)
        assert inner.calls == [
            ("buffer_updated", 7),
            ("eof_received",),
            ("pause_writing",),
            ("resume_writing",),
            ("connection_lost", error),
        ]
