from __future__ import annotations

import asyncio
import socket

import pytest

from tailrace.localproxy.socket_pair import socket_pair


async def test_two_sockets_that_do_not_block(loop_kind: str):
    near, far = await socket_pair()
    with near, far:
        for sock in (near, far):
            assert sock.family == socket.AF_INET
            assert not sock.getblocking()
        assert near.getpeername() == far.getsockname()
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await asyncio.get_running_loop().sock_sendall(near, b"hello")
        assert await asyncio.get_running_loop().sock_recv(far, 99) == b"hello"


class Faster(socket.socket):
    """A listening socket that another program connects to before anybody else."""

    others: list[socket.socket]

    def listen(self, backlog: int = 5) -> None:
        super().listen(backlog)
        type(self).others = [socket.create_connection(self.getsockname())]


async def test_a_stranger_is_not_taken_for_the_other_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tailrace.localproxy.socket_pair.socket.socket", Faster)
    near, far = await socket_pair()
    monkeypatch.undo()
    with near, far, Faster.others[0] as stranger:
        assert near.getpeername() == far.getsockname()
        assert await asyncio.to_thread(stranger.recv, 1) == b""


async def test_one_that_is_cancelled_leaves_none_open():
    making = asyncio.get_running_loop().create_task(socket_pair())
    await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
