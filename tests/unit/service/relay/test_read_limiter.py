"""A protocol that is offered small reads."""

import asyncio

from tailrace.service.relay.read_limiter import FULL_READ, SMALL_READ, ReadLimiter


class Recorder(asyncio.BufferedProtocol):
    """Notes what it is told, and has a large buffer."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.buffer = bytearray(10 * FULL_READ)

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


def test_one_read_of_the_buffer() -> None:
    inner = Recorder()
    limiter = ReadLimiter(inner)
    offered = limiter.get_buffer(-1)
    assert len(offered) == FULL_READ
    limiter.read_size = SMALL_READ
    assert len(limiter.get_buffer(-1)) == SMALL_READ
    offered[:3] = b"abc"
    assert inner.buffer[:3] == b"abc"
    inner.buffer = bytearray(5)
    assert len(ReadLimiter(inner).get_buffer(-1)) == 5


def test_everything_else_is_handed_on() -> None:
    inner = Recorder()
    limiter = ReadLimiter(inner)
    fault = OSError("gone")
    limiter.buffer_updated(7)
    limiter.pause_writing()
    limiter.resume_writing()
    assert limiter.eof_received() is True
    limiter.connection_lost(fault)
    assert inner.told == [7, "pause", "resume", "eof", fault]
