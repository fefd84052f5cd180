"""What picows may log, and how."""

from __future__ import annotations

import logging
from typing import Any, Final

from ...common.log_floods import flood_kind
from .client_address import client_address

__all__ = ["PicowsLog"]

_log = logging.getLogger(__name__)

_CAUSES: Final = {
    "Handshake timeout": "no upgrade request in time",
    "Disconnect because HTTP request": "the upgrade request has no end",
}
"""Start of a line about a refusal that only picows knows of -> its cause."""

_KNOWN_FAULTS: Final = ("WS parser error",)
"""Faults of clients that the listener learns of, too, as the reason of a close frame."""


class PicowsLog(logging.LoggerAdapter[logging.Logger]):
    """A logger for picows that drops what is logged elsewhere.

    Its level keeps picows from logging requests, which hold tokens. It is an adapter
    because picows makes a child logger per connection of anything else.
    """

    def __init__(self) -> None:
        super().__init__(_log.getChild("picows"))
        self.logger.setLevel(logging.ERROR)

    def info(self, msg: object, *args: object, **_options: Any) -> None:
        for start, cause in _CAUSES.items():
            if str(msg).startswith(start):
                _log.warning(
                    "connection refused: %s; from %s",
                    cause,
                    client_address(),
                    extra=flood_kind(cause),
                )

    def error(self, msg: object, *args: object, **options: Any) -> None:
        if not str(msg).startswith(_KNOWN_FAULTS):
            super().error(msg, *args, **options)
