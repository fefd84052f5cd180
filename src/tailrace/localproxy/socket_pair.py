"""Two connected sockets of this process, for programs that want a socket and no streams.

They are TCP, over the loopback: a pair of unix sockets knows no reset, so that its reader could not
tell a connection that was cut from one that has ended.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from .sockets import tune

__all__ = ["socket_pair"]

_LOOPBACK: Final = "127.0.0.1"


async def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two non-blocking TCP sockets that are connected to each other.

    Raises:
        OSError: this process is out of descriptors, or this machine has no loopback.
    """
    loop = asyncio.get_running_loop()
    with socket.socket() as listening:
        listening.setblocking(False)
        listening.bind((_LOOPBACK, 0))
        listening.listen()
        near = socket.socket()
        try:
            near.setblocking(False)
            await loop.sock_connect(near, listening.getsockname())
            far, peer = await loop.sock_accept(listening)
            while peer != near.getsockname():
                far.close()  # another program of this machine was faster
                far, peer = await loop.sock_accept(listening)
        except BaseException:
            near.close()
            raise
    far.setblocking(False)
    tune(near)
    return near, far
