"""aiofastnet 1.2: whether it can be used, and three of its defects, which stop here.

aiofastnet does TLS in C on Python's own OpenSSL, without asyncio's copies. It is given a view of
the event loop in place of the loop, which makes up for these defects:

* When the other side closes the connection during the handshake, it not only raises that but also
  gives an exception class, not an instance, to ``loop.call_exception_handler``, which would end as
  a traceback on the terminal. The view passes on nothing before the handshake is done.
* ``create_connection`` does not return its transport before the handshake is done, although only
  the transport knows which certificate was refused. What it gives to ``loop.add_reader`` is a
  bound method of the transport, from which the view takes it, and ``get_extra_info("ssl_object")``
  works that early.
* It expects to be called again while there is more to read, but libuv reports a reset connection
  only once, even if bytes before the reset are still to be read. The view calls it twice.

None of this is documented, so ``pyproject.toml`` bounds the version. A fourth one is left to the
users of a transport: a pause of reading from within a read would leave what was decrypted but not
delivered until the other side sends again, so they pause in another turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .x509_names import presented_certificates

__all__ = ["LoopView", "fast_transports"]


def fast_transports() -> ModuleType | None:
    """Return aiofastnet where it is installed and fits this Python's OpenSSL."""
    try:
        import aiofastnet
    except ImportError:
        return None
    return aiofastnet


class LoopView:
    """The event loop as one transport of aiofastnet sees it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._shaking = True
        self._transport: asyncio.BaseTransport | None = None
        self._reports_once = type(loop).__module__.partition(".")[0] == "uvloop"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        if self._shaking:
            self._transport = getattr(callback, "__self__", None)
        if not self._reports_once:
            self._loop.add_reader(fd, callback)
            return

        def read_twice() -> None:
            callback()
            callback()  # nearly always there is nothing, for the price of one system call

        self._loop.add_reader(fd, read_twice)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._shaking:
            self._loop.call_exception_handler(context)

    def handshake_done(self) -> None:
        """Keep no reference to the transport, and report its errors from now on."""
        self._shaking = False
        self._transport = None

    def presented_certificates(self) -> list[str]:
        """Describe what the other side presented in a handshake that failed."""
        if self._transport is None:
            return []
        return presented_certificates(self._transport.get_extra_info("ssl_object"))
