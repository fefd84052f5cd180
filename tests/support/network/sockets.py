"""Ways to end a TCP connection, and sockets on which nothing happens."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from support.waiting import HANG

__all__ = ["Streams", "black_hole", "hang_up", "reset", "reset_on_close", "reset_streams"]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_QUEUE = 8
"""More connections than systems queue when they are asked to queue none."""


def reset_on_close(sock: socket.socket) -> None:
    """Let the close of a connection be a TCP reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset(sock: socket.socket) -> None:
    """End a connection with a TCP reset, unless it is closed."""
    if sock.fileno() >= 0:
        reset_on_close(sock)
        # Not sock.close(): TLS would say goodbye first.
        socket.close(sock.detach())


def reset_streams(streams: Streams) -> None:
    """End a connection of asyncio with a TCP reset."""
    reset_on_close(streams[1].get_extra_info("socket"))
    streams[1].transport.abort()


async def hang_up(writer: asyncio.StreamWriter, patience: float = HANG) -> None:
    """Close a connection and wait until it is closed; drop what the peer does not take in time."""
    writer.close()
    try:
        async with asyncio.timeout(patience):
            await writer.wait_closed()
    except TimeoutError:
        writer.transport.abort()
    except OSError:
        pass


@contextmanager
def black_hole(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that answers nothing: its queue of connections is full, so SYNs are dropped."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server((host, 0), family=family, backlog=0))
        for _ in range(_QUEUE):
            filler = stack.enter_context(socket.socket(family))
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]
