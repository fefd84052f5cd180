"""A protocol that is offered small bites."""

import asyncio

from tailrace.service.relay.read_limiter import BITE, NIBBLE, PacedProtocol


class Recorder(asyncio.BufferedProtocol):
    """Notes what it is told, and has a large buffer."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.buffer = bytearray(10 * BITE)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.told.append(nbytes)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)


def test_one_bite_of_the_buffer() -> None:
    inner = Recorder()
    paced = PacedProtocol(inner)
    offered = paced.get_buffer(-1)
    assert len(offered) == BITE
    paced.bite = NIBBLE
    assert len(paced.get_buffer(-1)) == NIBBLE
    offered[:3] = b"abc"
    assert inner.buffer[:3] == b"abc"
    inner.buffer = bytearray(5)
    assert len(PacedProtocol(inner).get_buffer(-1)) == 5


def test_everything_else_is_handed_on() -> None:
    inner = Recorder()
    paced = PacedProtocol(inner)
    fault = OSError("gone")
    paced.buffer_updated(7)
    paced.pause_writing()
    paced.resume_writing()
    assert paced.eof_received() is True
    paced.connection_lost(fault)
    assert inner.told == [7, "pause", "resume", "eof", fault]
