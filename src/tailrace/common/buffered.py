"""Bytes that were read already, for a protocol that reads into a buffer of its own."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["feed"]


def feed(
    data: bytes, get_buffer: Callable[[int], memoryview], updated: Callable[[int], object]
) -> None:
    """Give ``data`` to the two callbacks of a buffered protocol as if it had just come in."""
    rest = memoryview(data)
    while rest:
        room = get_buffer(-1)
        size = min(len(room), len(rest))
        room[:size] = rest[:size]
        rest = rest[size:]
        updated(size)
