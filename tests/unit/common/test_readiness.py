"""Readiness of sockets by the loop and by a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from support.waiting import until
from tailrace.common import readiness
from tailrace.common.readiness import Readiness, SelectorThread, readiness_of


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        yield here, there


async def ending(thread: SelectorThread) -> None:
    """Do what asyncio.run() does at its end."""
    await asyncio.get_running_loop().shutdown_asyncgens()
    await until(lambda: not thread._thread.is_alive(), "the end of the thread")


async def test_a_loop_that_tells_is_asked_itself(loop_kind: str) -> None:
    loop = asyncio.get_running_loop()
    assert readiness_of(loop) is loop


async def test_the_thread_of_a_loop_is_one() -> None:
    loop = asyncio.get_running_loop()
    thread = SelectorThread.of(loop)
    assert SelectorThread.of(loop) is thread
    await ending(thread)


@pytest.fixture(params=["loop", "thread"])
async def told(request: pytest.FixtureRequest) -> Readiness:
    """Both promise the same."""
    loop = asyncio.get_running_loop()
    return loop if request.param == "loop" else SelectorThread.of(loop)


async def test_reading(told: Readiness, pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    seen: list[bytes] = []
    told.add_reader(here.fileno(), lambda size: seen.append(here.recv(size)), 3)
    there.send(b"onetwo")
    await until(lambda: seen == [b"one", b"two"], "what was sent")
    assert told.remove_reader(here.fileno())
    there.send(b"three")
    assert not told.remove_reader(here.fileno())
    assert len(seen) == 2
    if isinstance(told, SelectorThread):
        await ending(told)


async def test_writing(told: Readiness, pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    with pytest.raises(BlockingIOError):
        while True:
            here.send(bytes(65536))
    calls: list[int] = []

    def writable() -> None:
        calls.append(1)
        told.remove_writer(here.fileno())

    told.add_writer(here.fileno(), writable)
    for _ in range(20):
        await asyncio.sleep(0)
    assert calls == []
    there.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            there.recv(1 << 20)
    await until(lambda: calls == [1], "the call")
    assert not told.remove_writer(here.fileno())
    if isinstance(told, SelectorThread):
        await ending(told)


async def test_a_callback_that_fails_does_not_stop_the_others(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    here, there = pair
    loop = asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    thread = SelectorThread.of(loop)

    def fail() -> None:
        here.recv(1)
        raise KeyError("a bug")

    seen: list[bytes] = []
    there.setblocking(False)
    thread.add_reader(here.fileno(), fail)
    thread.add_reader(there.fileno(), lambda: seen.append(there.recv(1)))
    there.send(b"a")
    here.send(b"b")
    await until(lambda: bool(failures and seen), "both calls")
    assert (str(failures[0]), seen) == ("'a bug'", [b"b"])
    loop.set_exception_handler(None)
    await ending(thread)


async def test_one_that_is_removed_by_another_is_not_called(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    here, there = pair
    thread = SelectorThread.of(asyncio.get_running_loop())
    calls: list[str] = []
    for one, other, name in ((here, there, "here"), (there, here, "there")):

        def call(fd: int = other.fileno(), name: str = name) -> None:
            calls.append(name)
            thread.remove_reader(fd)
            thread.remove_reader(here.fileno() + there.fileno() - fd)

        thread.add_reader(one.fileno(), call)
    # Both are ready when the thread looks next.
    here.send(b"a")
    there.send(b"b")
    await until(lambda: bool(calls), "a call")
    assert len(calls) == 1
    await ending(thread)


async def test_a_socket_that_is_closed_is_survived(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    here, there = pair
    thread = SelectorThread.of(asyncio.get_running_loop())
    with socket.socket() as closed:
        thread.add_reader(closed.fileno(), lambda: None)
        number = closed.fileno()
    seen: list[bytes] = []
    thread.add_reader(here.fileno(), lambda: seen.append(here.recv(9)))
    there.send(b"still here")
    thread.remove_reader(number)
    await until(lambda: b"".join(seen) == b"still here", "what was sent")
    await ending(thread)


def test_its_end_is_that_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()

    async def main() -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            SelectorThread.of(asyncio.get_running_loop()).add_reader(
                listening.fileno(), lambda: None
            )
            assert threading.active_count() == before + 1

    asyncio.run(main())
    assert threading.active_count() == before


def test_only_the_loop_of_windows_gets_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class ProactorEventLoop(asyncio.SelectorEventLoop):
        """As on Windows."""

    class Windows:
        platform = "win32"

    async def main() -> None:
        assert isinstance(readiness_of(asyncio.get_running_loop()), SelectorThread)

    monkeypatch.setattr(readiness, "sys", Windows)
    monkeypatch.setattr(asyncio, "ProactorEventLoop", ProactorEventLoop, raising=False)
    with asyncio.Runner(loop_factory=ProactorEventLoop) as runner:
        runner.run(main())
