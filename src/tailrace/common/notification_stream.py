"""Server-sent events by which things wait for notifications, as both ends must know them.

``GET /notifications?thing=NAME`` is signed like a call of the control API, and answered with a
stream of events (HTML standard, "Server-sent events"). The data of an event ``notification`` is
what MQTT would publish, its id names the access token. The thing acknowledges ids with the
operation ``AcknowledgeNotifications``; what it has not is sent again on the next stream. Comments
come in between, so that both ends notice when the other one is gone.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CONTENT_TYPE", "EVENT", "KEEP_ALIVE", "KEEP_ALIVE_SECONDS", "STREAM_PATH", "event"]

STREAM_PATH: Final = "/notifications"
CONTENT_TYPE: Final = "text/event-stream"
EVENT: Final = "notification"
KEEP_ALIVE: Final = b":\n\n"
KEEP_ALIVE_SECONDS: Final = 20.0


def event(event_id: str, data: str) -> bytes:
    """Return an event in bytes; ``data`` is one line."""
    return f"event: {EVENT}\nid: {event_id}\ndata: {data}\n\n".encode()
