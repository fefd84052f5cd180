"""Handlers in threads."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.waiting import HANG, until
from tailrace.errors import ConfigurationError
from tailrace.localproxy.routes import SocketFactory
from tailrace.sync import handlers
from tailrace.sync.handlers import Handlers, SocketHandler


async def client(running: Handlers, handler: SocketHandler) -> socket.socket:
    """Return what the engine gets for a new connection."""
    factory = running.application("SSH", handler)
    assert isinstance(factory, SocketFactory)
    return await factory.connect()


async def received(sock: socket.socket) -> bytes:
    """Return everything up to the end, and close."""
    found = b""
    with sock:
        async with asyncio.timeout(HANG):
            while data := await asyncio.get_running_loop().sock_recv(sock, 1024):
                found += data
    return found


@contextmanager
def busy(running: Handlers) -> Iterator[SocketHandler]:
    """A handler that runs until the block ends; it closes nothing itself."""
    over = threading.Event()
    yield lambda _: assert_set(over)
    over.set()
    running.join()


def assert_set(event: threading.Event) -> None:
    assert event.wait(HANG)


def test_addresses_stay_what_they_are() -> None:
    assert Handlers(1).application("SSH", 22) == 22
    assert Handlers(1).application("SSH", "localhost:22") == "localhost:22"


def test_what_cannot_be() -> None:
    async def handler(sock: socket.socket) -> None:
        """Serve for the asynchronous library."""

    with pytest.raises(ConfigurationError, match=r"SSH is a coroutine function; .*handler\(sock"):
        Handlers(1).application("SSH", handler)
    with pytest.raises(ConfigurationError, match="max_threads=0 is less than 1"):
        Handlers(0)


async def test_a_handler_has_a_blocking_socket_and_a_thread() -> None:
    names = []

    def handler(sock: socket.socket) -> None:
        assert sock.gettimeout() is None
        names.append(threading.current_thread().name)
        sock.sendall(sock.makefile("rb").readline())

    running = Handlers(2)
    sock = await client(running, handler)
    assert sock.gettimeout() == 0
    await asyncio.get_running_loop().sock_sendall(sock, b"hello\n")
    assert await received(sock) == b"hello\n"
    running.join()
    assert names == ["tailrace SSH"]


async def test_a_handler_that_fails_resets_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    def fail(sock: socket.socket) -> None:
        raise ValueError("broken")

    def fail_closed(sock: socket.socket) -> None:
        sock.close()
        raise ValueError("broken")

    running = Handlers(1)
    with pytest.raises(ConnectionResetError):
        await received(await client(running, fail))
    assert await received(await client(running, fail_closed)) == b""
    running.join()
    for record in caplog.records:
        assert record.name == "tailrace"
        assert record.getMessage() == "The handler of service 'SSH' failed"
        assert record.exc_info is not None
    assert len(caplog.records) == 2


async def test_an_end_of_the_connection_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tailrace")

    def lose(sock: socket.socket) -> None:
        raise BrokenPipeError("broken pipe")

    running = Handlers(1)
    assert await received(await client(running, lose)) == b""
    running.join()
    (record,) = (each for each in caplog.records if each.name == "tailrace")
    assert record.levelno == logging.DEBUG


async def test_more_connections_than_threads_wait() -> None:
    running = Handlers(2)
    with busy(running) as handler:
        socks = [await client(running, handler) for _ in range(2)]
        waiting = asyncio.get_running_loop().create_task(client(running, handler))
        given_up = asyncio.get_running_loop().create_task(client(running, handler))
        await until(lambda: running._free.locked())
        assert not waiting.done()
        given_up.cancel()
        await asyncio.wait([given_up])
    socks.append(await waiting)
    for sock in socks:
        assert await received(sock) == b""
    running.join()


async def test_handlers_that_do_not_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handlers, "_GRACE", 0.01)
    running = Handlers(1)
    with busy(running) as handler:
        sock = await client(running, handler)
        running.join()
        (record,) = caplog.records
        assert record.getMessage() == (
            "1 handlers still run, although their connections have ended"
        )
    assert await received(sock) == b""


async def test_a_handler_that_ends_everything_does_not_wait_for_itself() -> None:
    running = Handlers(1)
    sock = await client(running, lambda _: running.join())
    assert await received(sock) == b""
    running.join()


async def test_without_threads_or_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def no_sockets() -> tuple[socket.socket, socket.socket]:
        raise OSError("Too many open files")

    running = Handlers(1)
    for name, broken in (("threading.Thread.start", fail), ("socket_pair", no_sockets)):
        with monkeypatch.context() as context:
            target = name if "." in name else f"tailrace.sync.handlers.{name}"
            context.setattr(target, broken)
            with pytest.raises(OSError):
                await client(running, lambda _: None)
    assert await received(await client(running, lambda _: None)) == b""
    running.join()


def test_a_handler_outlives_the_loop() -> None:
    over = threading.Event()
    running = Handlers(1)
    asyncio.run(client(running, lambda _: assert_set(over))).close()
    over.set()
    running.join()
    assert not running._threads
