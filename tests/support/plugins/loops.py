"""The event loops tests run on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

import uvloop

__all__ = ["LOOP_FACTORIES"]


async def _use_a_stream() -> None:
    left, right = socket.socketpair()
    with right:
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, sock=left
        )
        transport.abort()
    await asyncio.sleep(0)


def _new_uvloop() -> asyncio.AbstractEventLoop:
    """Return a loop that holds already what libuv opens with its first stream and keeps.

    (A spare descriptor, given up to accept and close a connection when none is left.)
    """
    loop = uvloop.new_event_loop()
    loop.run_until_complete(_use_a_stream())
    return loop


LOOP_FACTORIES: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": _new_uvloop,
}

# libuv opens a pipe for signals when its first loop is made and keeps it for good.
uvloop.new_event_loop().close()
