"""The control socket of a process: a request is one line, and so is the answer, in JSON.

::

    $ echo status | nc -U /run/user/1000/tailrace/4711-localproxy.sock
    {"format": 1, "kind": "localproxy", "pid": 4711, ...

Only this user and root can connect, and even they cannot make a process work much or keep much:
few clients at a time, for a few seconds each, and the same document for those who ask at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from ..common.addresses import TCPAddress
from ..errors import ConfigurationError
from .documents import Document, process_document
from .metrics import metrics_served
from .one_request import Fresh, OneRequest, ending
from .places import HAS_SOCKETS, control_directory, listening_socket
from .summary import summary_lines

__all__ = ["REQUEST", "told"]

REQUEST: Final = b"status\n"

_NO_REQUEST: Final = b'{"error":"not a request; there is: status"}\n'
_LONGEST_REQUEST: Final = 64

_log = logging.getLogger("tailrace.control")


@asynccontextmanager
async def told(
    kind: str,
    details: Callable[[], Mapping[str, Any]],
    environment: Mapping[str, str],
    *,
    at_socket: bool = True,
    metrics_listen: TCPAddress | None = None,
) -> AsyncIterator[None]:
    """Tell what this process does for the body: at its control socket, and in the log on SIGUSR1.

    It goes without a socket where none can be made, which is a line in the log for debugging.

    Args:
        kind: the command, as ``localproxy``: letters only.
        details: returns what only this command has to tell. Must not wait.
        environment: says where the socket belongs.
        at_socket: ``False``: there is to be no socket.
        metrics_listen: where Prometheus finds metrics.

    Raises:
        ConfigurationError: metrics are to be served, and a package for that is missing.
        ListenError: the address for metrics cannot be bound.
    """
    since = time.time()

    def document() -> Document:
        return process_document(kind, since, details())

    async with AsyncExitStack() as stack:
        stack.enter_context(_logged_on_signal(document))
        if metrics_listen is not None:
            await stack.enter_async_context(metrics_served(metrics_listen, document))
        if at_socket and HAS_SOCKETS:
            try:
                directory = control_directory(environment)
                await stack.enter_async_context(_served(directory, kind, document))
            except (OSError, ConfigurationError, NotImplementedError) as error:
                _log.debug("no control socket: %s", error)
        yield


@contextmanager
def _logged_on_signal(document: Callable[[], Document]) -> Iterator[None]:
    def log() -> None:
        for line in summary_lines(document()):
            _log.info("%s", line)

    loop = asyncio.get_running_loop()
    number: signal.Signals | None = getattr(signal, "SIGUSR1", None)
    try:
        if number is None:
            raise NotImplementedError
        loop.add_signal_handler(number, log)
    except (NotImplementedError, RuntimeError, ValueError):  # as outside of the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(number)


@asynccontextmanager
async def _served(
    directory: Path, kind: str, document: Callable[[], Document]
) -> AsyncIterator[None]:
    line = Fresh(lambda: json.dumps(document(), separators=(",", ":")).encode() + b"\n")

    def answer(request: bytes, is_all: bool) -> bytes | None:
        if b"\n" not in request and not is_all:
            return None
        return line() if request.startswith(REQUEST) else _NO_REQUEST

    clients: set[OneRequest] = set()
    with listening_socket(directory, kind) as sock:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(
            lambda: OneRequest(answer, _LONGEST_REQUEST, clients), sock=sock
        )
        async with ending(server, clients):
            yield
