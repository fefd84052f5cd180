"""aiofastnet 1.2: whether it can be used, and five of its defects, which stop here.

aiofastnet does TLS in C on Python's own OpenSSL, without asyncio's copies. It is given a view of
the event loop in place of the loop, and a context of its own, which make up for these defects:

* When the other side closes the connection during the handshake, it not only raises that but also
  gives an exception class, not an instance, to ``loop.call_exception_handler``, which would end as
  a traceback on the terminal. The view passes on nothing before the handshake is done.
* ``create_connection`` does not return its transport before the handshake is done, although only
  the transport knows which certificate was refused. What it gives to ``loop.add_reader`` is a
  bound method of the transport, from which the view takes it, and ``get_extra_info("ssl_object")``
  works that early.
* It expects to be called again while there is more to read, but libuv reports a reset connection
  only once, even if bytes before the reset are still to be read. The view calls it twice.
* After the handshake it decodes the other side's certificate, of which nobody here asks the
  content, by way of a temporary file, which a machine may have no place for. It does not if the
  context's ``verify_mode`` reads ``CERT_NONE``; OpenSSL verifies by its own copy of that setting.
* What goes wrong between the last message of the handshake and the protocol's
  ``connection_made()`` closes the transport, but ``create_connection`` never returns. The view
  made the future it waits for, and ends it with the error that the transport is closed with.

None of this is documented, so ``pyproject.toml`` bounds the version. A sixth one is left to the
users of a transport: a pause of reading from within a read would leave what was decrypted but not
delivered until the other side sends again, so they pause in another turn of the loop.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextvars import Context
from types import ModuleType
from typing import Any

from .x509_names import presented_certificates

__all__ = ["FilelessContext", "LoopView", "fast_transports"]


def fast_transports() -> ModuleType | None:
    """Return aiofastnet where it is installed and fits this Python's OpenSSL."""
    try:
        import aiofastnet
    except ImportError:
        return None
    return aiofastnet


class FilelessContext(ssl.SSLContext):
    """A context with which aiofastnet writes no certificate to a temporary file.

    Setting ``verify_mode`` works as ever, but it always reads ``CERT_NONE``.
    """

    @property
    def verify_mode(self) -> Any:
        return ssl.CERT_NONE

    @verify_mode.setter
    def verify_mode(self, value: int) -> None:
        vars(ssl.SSLContext)["verify_mode"].__set__(self, value)


class LoopView:
    """The event loop as one transport of aiofastnet sees it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._shaking = True
        self._transport: asyncio.BaseTransport | None = None
        self._waiter: asyncio.Future[None] | None = None
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

    def create_future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._shaking:
            self._waiter = future
        return future

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self._shaking and getattr(callback, "__name__", "") == "_finalize_close":
            # In its turn, as aiofastnet may still end the future itself.
            self._loop.call_soon(self._end_handshake, *args)
        return self._loop.call_soon(callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._shaking:
            self._loop.call_exception_handler(context)

    def handshake_done(self) -> None:
        """Keep no reference to the transport, and report its errors from now on."""
        self._shaking = False
        self._transport = self._waiter = None

    def _end_handshake(self, error: BaseException | None) -> None:
        """Called when the transport was closed, because of ``error``, before it was handed out."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error or ConnectionAbortedError())

    def presented_certificates(self) -> list[str]:
        """Describe what the other side presented in a handshake that failed."""
        if self._transport is None:
            return []
        return presented_certificates(self._transport.get_extra_info("ssl_object"))
