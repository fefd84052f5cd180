"""What picows may log, and where."""

from __future__ import annotations

import logging
from typing import Any, Final

from .throttled_log import ThrottledLog

__all__ = ["PicowsLog"]

_REFUSALS: Final = {
    "Handshake timeout": "no upgrade request in time",
    "Disconnect because HTTP request": "the upgrade request has no end",
}
"""How picows begins to tell of refusals that nobody else knows of -> what we call them."""

_KNOWN_FAULTS: Final = ("WS parser error",)
"""Faults of clients that reach the listener as the reason of a close frame, too."""


class PicowsLog(logging.LoggerAdapter[logging.Logger]):
    """A logger for picows that is silent about what is logged elsewhere.

    Its level keeps picows from ever logging requests, which hold tokens. An adapter,
    because picows makes a child logger per connection of anything else.
    """

    def __init__(self, refusals: ThrottledLog) -> None:
        super().__init__(logging.getLogger(__name__))
        self.logger.setLevel(logging.ERROR)
        self._refusals = refusals

    def info(self, msg: object, *args: object, **_options: Any) -> None:
        for beginning, cause in _REFUSALS.items():
            if str(msg).startswith(beginning):
                self._refusals.add(cause, "connection refused: %s", cause)

    def error(self, msg: object, *args: object, **options: Any) -> None:
        if not str(msg).startswith(_KNOWN_FAULTS):
            super().error(msg, *args, **options)
