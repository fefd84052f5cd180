"""Notifications in files and in lines, bare or as ``tailrace serve`` writes them; pure.

The command of ``tailrace serve --notify-command`` reads an object that has the notification in it,
next to the name of its thing. Passed on as it is, it is understood.
"""

from __future__ import annotations

import json
from typing import Final

from ...errors import NotificationIgnored
from ..notification import MAX_PAYLOAD, load_object
from .base import Delivery

__all__ = ["MAX_DOCUMENT", "Lines", "delivery_of", "is_whole", "split_documents"]

MAX_DOCUMENT: Final = 2 * MAX_PAYLOAD
"""Bytes of the longest document: a notification and what is around it."""


def delivery_of(document: bytes) -> Delivery:
    """Return what a document brings; whether it is a notification is not judged here."""
    try:
        found = load_object(document, MAX_DOCUMENT)
    except NotificationIgnored:
        return Delivery(document[: MAX_PAYLOAD + 1])
    notification, thing_name = found.get("notification"), found.get("thingName")
    if not isinstance(notification, dict):
        return Delivery(document[: MAX_PAYLOAD + 1])
    notification.setdefault("tunnelId", found.get("tunnelId"))
    return Delivery(
        json.dumps(notification).encode()[: MAX_PAYLOAD + 1],
        thing_name if isinstance(thing_name, str) else None,
    )


def is_whole(content: bytes) -> bool:
    """Return whether the content of a file was written to its end, as far as it shows."""
    return content.endswith(b"\n") or not content or _is_object(content)


def split_documents(content: bytes) -> list[bytes]:
    """Return the documents of a file: the object that it is, or one for each line."""
    if _is_object(content):
        return [content]
    return [line for line in map(bytes.strip, content.splitlines()) if line]


def _is_object(content: bytes) -> bool:
    try:
        load_object(content, MAX_DOCUMENT)
    except NotificationIgnored:
        return False
    return True


class Lines:
    """Bytes in pieces to lines; of a line that is too long, nothing is kept."""

    def __init__(self, most: int = MAX_DOCUMENT) -> None:
        self._most = most
        self._rest = b""
        self._skipping = False
        self.dropped = 0
        """Lines so far that were too long."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that end in ``data``, without their ends; empty ones are left out."""
        *lines, rest = (self._rest + data).split(b"\n")
        if lines and self._skipping:
            del lines[0]
            self._skipping = False
        if len(rest) > self._most or self._skipping:
            self.dropped += not self._skipping
            self._skipping, rest = True, b""
        self._rest = rest
        self.dropped += sum(len(line) > self._most for line in lines)
        return [line.strip() for line in lines if line.strip() and len(line) <= self._most]

    def end(self) -> list[bytes]:
        """Return the last line, if it has no end."""
        return [line for line in [self._rest.strip()] if line]
