"""Server-sent events from the bytes of a response (HTML standard, "Server-sent events"); pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Event", "EventReader"]

_MAX_LINE: Final = 64 * 1024
_MAX_DATA: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    kind: str
    event_id: str
    data: bytes = field(repr=False)


class EventReader:
    """Splits what comes into events; comments and unknown fields are passed over.

    Lines end with a line feed, alone or behind a carriage return, as those of our service do.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._kind = ""
        self._event_id = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Yield the events that ``piece`` completes.

        Raises:
            ValueError: a line or an event is too long, or not UTF-8.
        """
        *lines, rest = piece.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > _MAX_LINE:
            raise ValueError("a line of the stream is too long")
        for line in lines:
            if len(line) > _MAX_LINE:
                raise ValueError("a line of the stream is too long")
            event = self._take(line.removesuffix(b"\r"))
            if event is not None:
                yield event

    def _take(self, line: bytes) -> Event | None:
        if not line:
            return self._end()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._size += len(value) + 1
                if self._size > _MAX_DATA:
                    raise ValueError("an event of the stream is too long")
                self._data.append(value)
            case b"event":
                self._kind = value.decode()
            case b"id":
                self._event_id = value.decode()
        return None

    def _end(self) -> Event | None:
        kind, data = self._kind, self._data
        self._kind, self._data, self._size = "", [], 0
        if not data:
            return None
        return Event(kind or "message", self._event_id, b"\n".join(data))
