"""The log of one tunnel end: its records say which one it is, and never show its tokens.

A program with many tunnels tells their records apart by three attributes of each record:
``side``, ``endpoint`` and ``services``. Tokens are taken out before there is a record, so that
it is safe with any handler of any program.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterable
from typing import Any, Final

from ..common.redaction import Redaction
from ..common.secret import Secret
from ..wire import Side

__all__ = ["TunnelLog"]

_LOGGER: Final = logging.getLogger("tailrace.localproxy")
_PLAIN: Final = (int, float, Secret, type(None))
"""What cannot hold the text of a token."""


class TunnelLog(logging.LoggerAdapter[logging.Logger]):
    """Logs for one tunnel end."""

    def __init__(self, side: Side, endpoint: str, secrets: Iterable[Secret]) -> None:
        self._context: dict[str, object] = {"side": side, "endpoint": endpoint, "services": ()}
        super().__init__(_LOGGER, self._context)
        self._redaction = Redaction()
        self._redaction.add(*secrets)

    def add_secret(self, secret: Secret) -> None:
        """Take one more token out of the records from now on."""
        self._redaction.add(secret)

    def set_services(self, service_ids: tuple[str, ...]) -> None:
        """Name the services of the tunnel in the records from now on."""
        self._context["services"] = service_ids

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log, as :meth:`logging.Logger.log`, without the tokens of the tunnel."""
        if not self.isEnabledFor(level):
            return
        text = _traceback(kwargs.get("exc_info"))
        if text != self._redacted(text):
            # Handlers would format the exception once more.
            kwargs["exc_info"] = None
            msg, args = f"{msg}\n%s", (*args, text)
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, self._redacted(msg), *map(self._redacted, args), **kwargs)

    def _redacted(self, value: object) -> object:
        """Return a part of a message as it is, or its text without tokens if it holds any."""
        if isinstance(value, _PLAIN):
            return value
        text = str(value)
        redacted = self._redaction.redact(text)
        return value if redacted == text else redacted


def _traceback(exc_info: object) -> str:
    """Return what a handler would print for the argument ``exc_info`` of a log call."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    error = exc_info if isinstance(exc_info, BaseException) or not exc_info else sys.exception()
    return "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
