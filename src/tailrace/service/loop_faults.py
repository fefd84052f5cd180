"""Faults that transports report to the event loop although they are none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

__all__ = ["early_leavers_counted"]

_Handler: TypeAlias = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]


@contextmanager
def early_leavers_counted(
    loop: asyncio.AbstractEventLoop, ports: Container[int], refusals: Counter[str]
) -> Iterator[None]:
    """Count clients that leave a listener before TLS is set up, as health checks do.

    aiofastnet 1.2 reports those with the exception's class in place of the exception, which
    logging cannot format. ``ports`` are those of our listeners: all else that the loop is told is
    passed on, be it of another service in the same loop or of the program around it. The count is
    one of ``refusals``.
    """
    handler = _LeaverFilter(ports, refusals, loop.get_exception_handler())
    loop.set_exception_handler(handler)
    try:
        yield
    finally:
        handler.is_over = True
        # Handlers may have been set in any order, also by others: no more is taken away than
        # filters of services that have stopped.
        current = loop.get_exception_handler()
        while isinstance(current, _LeaverFilter) and current.is_over:
            current = current.before
        loop.set_exception_handler(current)


class _LeaverFilter:
    """An exception handler in front of the one that was set ``before``."""

    __slots__ = ("_ports", "_refusals", "before", "is_over")

    def __init__(
        self, ports: Container[int], refusals: Counter[str], before: _Handler | None
    ) -> None:
        self._ports = ports
        self._refusals = refusals
        self.before = before
        self.is_over = False

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.is_over and self._is_early_leaver(context):
            self._refusals["tls_not_finished"] += 1
        elif self.before is not None:
            self.before(loop, context)
        else:
            loop.default_exception_handler(context)

    def _is_early_leaver(self, context: dict[str, Any]) -> bool:
        if context.get("exception") is not ConnectionResetError:
            return False
        address = context["transport"].get_extra_info("sockname")
        return bool(address) and address[1] in self._ports
