"""Keep the books of a connection as those do who move its bytes."""

from __future__ import annotations

from tailrace.session import LARGE, Counts, Ledger
from tailrace.wire import MAX_PAYLOAD, DataHeader, decode

__all__ = ["keep", "payload_of", "send", "take"]


def take(counts: Counts, wanted: int) -> int:
    """Take up to so many bytes from what may be sent; return how many there are."""
    size = min(wanted, counts.room)
    counts.room -= size
    return size


def keep(ledger: Ledger, message: bytes, size: int) -> None:
    """Keep a message with ``size`` bytes of payload that was sent."""
    replay = ledger.replay
    if size < LARGE:
        replay.tail += message
        ledger.small_room -= len(message)
        if ledger.small_room < 0:
            ledger.count_small()
        return
    memory = replay.memory
    block = memory.take_block()
    start = block.GAP + size - len(message)
    block.memory[start : block.GAP + size] = message
    memory.spare.append(ledger.keep(block, block.view[start : block.GAP + size], size))


def send(ledger: Ledger, data: bytes) -> None:
    """Send bytes, all of which may be sent, and keep them."""
    header = DataHeader(ledger.stream_id, ledger.service_id, ledger.connection_id)
    while data:
        size = take(ledger, min(len(data), MAX_PAYLOAD))
        assert size
        keep(ledger, header.build(size) + data[:size], size)
        data = data[size:]


def payload_of(messages: bytes | memoryview) -> bytes:
    """Return the payload of DATA messages in a row."""
    payload = b""
    while messages:
        size = int.from_bytes(messages[:2], "big")
        payload += decode(bytes(messages[2 : 2 + size])).payload
        messages = messages[2 + size :]
    return payload
