"""Keep faults of clients out of the event loop's log of errors."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from .refusals import RefusalLog

__all__ = ["LoopFaults"]

_CLIENTS_FAULTS: Final = frozenset({"SSL handshake failed"})
"""Messages of aiofastnet and asyncio about connections that no protocol has seen yet."""


class LoopFaults:
    """An exception handler that logs what clients do wrong as refusals.

    Without it, whoever connects and hangs up writes a traceback into the log. All else
    goes to the handler that was there before.
    """

    def __init__(self, refusals: RefusalLog) -> None:
        self._refusals = refusals
        self._loop: asyncio.AbstractEventLoop | None = None
        self._previous: Any = None

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Become the loop's handler."""
        self._loop = loop
        self._previous = loop.get_exception_handler()
        loop.set_exception_handler(self._handle)

    def remove(self) -> None:
        """Put the previous handler back, unless another one has come since."""
        if self._loop is not None and self._loop.get_exception_handler() == self._handle:
            self._loop.set_exception_handler(self._previous)
        self._loop = None

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        kind = fault if isinstance(fault, type) else type(fault)
        if context.get("message") in _CLIENTS_FAULTS and issubclass(kind, OSError):
            text = "the client has hung up" if isinstance(fault, type) else str(fault)
            self._refusals.add("TLS handshake failed", "TLS handshake failed: %s", text)
        elif self._previous is not None:
            self._previous(loop, context)
        else:
            loop.default_exception_handler(context)
