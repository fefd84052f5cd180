"""Names and TCP: every address gets its chance, every failure its words, nothing stays open."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from support.network.ports import free_port
from support.network.sockets import black_hole
from support.plugins.clock import ClockLoop
from tailrace.errors import ConnectFailed, NameResolutionFailed
from tailrace.link import tcp as module
from tailrace.link.tcp import SocketAddress, connect_any, open_socket, resolve

PATIENCE = 20.0


def address(port: int, host: str = "127.0.0.1") -> SocketAddress:
    return SocketAddress(socket.AF_INET, (host, port))


@pytest.fixture
def alive() -> Iterator[int]:
    """The port of a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def refused() -> int:
    """A port nobody listens on."""
    return free_port()


@pytest.fixture
def silent() -> Iterator[int]:
    with black_hole() as port:
        yield port


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[SocketAddress]], None]:
    """Make the resolver answer with given addresses, as no name of this machine has two."""

    def use(addresses: list[SocketAddress]) -> None:
        def getaddrinfo(*_: object, flags: int = 0, **__: object) -> list[Any]:
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "not a number")
            return [(e.family, socket.SOCK_STREAM, 6, "", e.address) for e in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return use


async def test_a_connected_socket_with_its_options(alive: int) -> None:
    with await open_socket("localhost", alive, PATIENCE) as sock:
        assert sock.getpeername() == ("127.0.0.1", alive)
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        lowat = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        assert lowat == module.NOTSENT_LOWAT


async def test_systems_without_the_low_mark(alive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "TCP_NOTSENT_LOWAT")
    with await open_socket("localhost", alive, PATIENCE) as sock:
        assert sock.getpeername() == ("127.0.0.1", alive)


@pytest.mark.parametrize(
    ("host", "text"), [("127.0.0.1", "127.0.0.1:7"), ("::1", "[::1]:7"), ("127.1", "127.0.0.1:7")]
)
async def test_addresses_need_no_resolver(host: str, text: str) -> None:
    before = threading.active_count()
    (found,) = await resolve(host, 7, PATIENCE)
    assert str(found) == text
    assert threading.active_count() == before


async def test_a_name_is_resolved() -> None:
    assert address(7) in await resolve("localhost", 7, PATIENCE)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "name with blank"])
async def test_a_name_that_cannot_be(host: str) -> None:
    with pytest.raises(NameResolutionFailed, match=f"cannot resolve {host}: "):
        await resolve(host, 7, PATIENCE)


async def test_the_resolvers_own_words(unknown_host: str) -> None:
    with pytest.raises(NameResolutionFailed) as caught:
        await resolve(unknown_host, 7, PATIENCE)
    assert str(caught.value) == f"cannot resolve {unknown_host}: Name or service not known"
    assert caught.value.retryable


async def test_a_name_without_addresses(answers: Callable[[list[SocketAddress]], None]) -> None:
    answers([])
    with pytest.raises(NameResolutionFailed, match="it has no address"):
        await resolve("empty.example", 7, PATIENCE)


@pytest.fixture
def mute_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver that answers only when the event is set."""
    released = threading.Event()

    def getaddrinfo(*_: object, flags: int = 0, **__: object) -> list[Any]:
        if not flags:
            released.wait(PATIENCE)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield released
    released.set()
    for thread in threading.enumerate():
        if thread.name.startswith("resolve "):
            thread.join(PATIENCE)


async def test_a_mute_resolver_is_given_up(mute_resolver: threading.Event) -> None:
    with pytest.raises(NameResolutionFailed, match=r"no answer within 0\.05 s"):
        await resolve("slow.example", 7, 0.05)
    # Its late answer meets nobody, and hurts nobody.
    mute_resolver.set()
    for thread in threading.enumerate():
        if thread.name == "resolve slow.example":
            await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)


def test_a_mute_resolver_does_not_hold_up_the_end(mute_resolver: threading.Event) -> None:
    async def give_up() -> None:
        with pytest.raises(NameResolutionFailed):
            await resolve("slow.example", 7, 0.01)

    # Ends although the resolver's thread is still waiting; its answer then meets a closed loop.
    asyncio.run(give_up())
    assert any(thread.name == "resolve slow.example" for thread in threading.enumerate())


def test_families_take_turns() -> None:
    six = [(socket.AF_INET6, 1, 6, "", (f"::{n}", 7, 0, 0)) for n in range(1, 4)]
    four = [(socket.AF_INET, 1, 6, "", (f"127.0.0.{n}", 7)) for n in range(1, 2)]
    texts = [str(each) for each in module._in_turns([*six, *four, *four])]
    assert texts == ["[::1]:7", "127.0.0.1:7", "[::2]:7", "[::3]:7"]


async def test_a_refused_address_is_followed_by_the_next(
    alive: int, refused: int, answers: Callable[[list[SocketAddress]], None]
) -> None:
    answers([address(refused), address(alive)])
    with await open_socket("localhost", alive, PATIENCE) as sock:
        assert sock.getpeername() == ("127.0.0.1", alive)


async def test_a_silent_address_does_not_hold_up_the_next(alive: int, silent: int) -> None:
    winner = await connect_any([address(silent), address(alive)], "here", PATIENCE)
    with winner:
        assert winner.getpeername() == ("127.0.0.1", alive)


async def test_only_one_of_two_winners_is_kept(alive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    connect, started, go = module._connect, [], asyncio.Event()

    async def together(to: SocketAddress) -> socket.socket:
        sock = await connect(to)
        started.append(to)
        if len(started) == 2:
            go.set()
        await go.wait()
        return sock

    # Two real connections, but no network can be told to accept them in one turn of the loop.
    monkeypatch.setattr(module, "_connect", together)
    monkeypatch.setattr(module, "STAGGER", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        choice = [address(alive), address(other.getsockname()[1])]
        with await connect_any(choice, "here", PATIENCE) as sock:
            assert SocketAddress(socket.AF_INET, sock.getpeername()) in choice
    assert len(started) == 2


@pytest.mark.parametrize("first", ["refused", "silent"])
async def test_every_failure_is_told(
    refused: int, silent: int, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STAGGER", 0.05)
    said = {
        refused: f"127.0.0.1:{refused}: {os.strerror(errno.ECONNREFUSED)}",
        silent: f"127.0.0.1:{silent}: no answer within 0.5 s",
    }
    ports = [refused, silent] if first == "refused" else [silent, refused]
    with pytest.raises(ConnectFailed) as caught:
        await connect_any([address(port) for port in ports], "host.example:443", 0.5)
    answers = "; ".join(said[port] for port in ports)
    assert str(caught.value) == f"cannot connect to host.example:443: {answers}"
    assert caught.value.retryable


async def test_all_refused(refused: int) -> None:
    with pytest.raises(ConnectFailed, match=f"127.0.0.1:{refused}: Connection refused$"):
        await connect_any([address(refused)], "here", PATIENCE)


async def test_a_try_that_is_cancelled_leaves_nothing(silent: int) -> None:
    attempt = asyncio.get_running_loop().create_task(
        connect_any([address(silent)], "here", PATIENCE)
    )
    await asyncio.sleep(0.05)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "cannot connect to localhost:"), ("a proxy", "cannot connect to a proxy:")],
)
async def test_a_failure_names_what_was_to_be_reached(refused: int, name: str, said: str) -> None:
    with pytest.raises(ConnectFailed, match=said):
        await open_socket("localhost", refused, PATIENCE, name)


async def test_ipv6() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener, await open_socket("::1", listener.getsockname()[1], PATIENCE) as sock:
        assert sock.family is socket.AF_INET6


# -- the race, on a clock of its own ---------------------------------------------------------


class Race:
    """Plays how long each attempt takes and how it ends; notes when it began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *attempts: tuple[float, str]) -> None:
        self.attempts = attempts
        self.started: list[float] = []
        self.cancelled = 0
        self.end = 0.0
        monkeypatch.setattr(module, "_connect", self._connect)

    def run(self, timeout: float) -> str:
        """Return the outcome: the number of the winner, or the error text."""

        async def race() -> str:
            addresses = [address(number) for number in range(len(self.attempts))]
            try:
                with await connect_any(addresses, "here", timeout) as winner:
                    return str(self.sockets.index(winner))
            except ConnectFailed as error:
                return str(error)
            finally:
                self.end = asyncio.get_running_loop().time()
                await asyncio.sleep(0)  # for cancelled attempts

        self.sockets = [socket.socket() for _ in self.attempts]
        with ExitStack() as stack, asyncio.Runner(loop_factory=ClockLoop) as runner:
            for sock in self.sockets:
                stack.enter_context(sock)
            return runner.run(race())

    async def _connect(self, to: SocketAddress) -> socket.socket:
        number = to.address[1]
        seconds, outcome = self.attempts[number]
        self.started.append(asyncio.get_running_loop().time())
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if outcome:
            raise OSError(outcome)
        sock: socket.socket = self.sockets[number]
        return sock


@pytest.mark.parametrize(
    ("attempts", "started", "end", "outcome"),
    [
        # Beside one that says nothing, the next starts after the stagger.
        ([(99, ""), (99, ""), (0.1, "")], [0, 0.25, 0.5], 0.6, "2"),
        # After a failure the next starts at once.
        ([(0.1, "no"), (0.1, "no"), (0.1, "")], [0, 0.1, 0.2], 0.3, "2"),
        # A failure shortens the wait that another attempt has caused.
        ([(0.3, "no"), (99, ""), (0.1, "")], [0, 0.25, 0.3], 0.4, "2"),
        # The first that connects wins, not the first that began.
        ([(0.4, ""), (0.1, ""), (99, "")], [0, 0.25], 0.35, "1"),
        # When all have begun, there is no more to wait for than outcomes.
        ([(3, ""), (5, "no")], [0, 0.25], 3, "0"),
        ([(1, "no"), (2, "never")], [0, 0.25], 2.25, "0: no; 127.0.0.1:1: never"),
        ([(1, "no"), (99, "")], [0, 0.25], 10, "0: no; 127.0.0.1:1: no answer within 10 s"),
    ],
)
def test_who_starts_when_and_who_wins(
    monkeypatch: pytest.MonkeyPatch,
    attempts: list[tuple[float, str]],
    started: list[float],
    end: float,
    outcome: str,
) -> None:
    race = Race(monkeypatch, *attempts)
    assert race.run(10.0).removeprefix("cannot connect to here: 127.0.0.1:") == outcome
    assert race.started == pytest.approx(started)
    assert race.end == pytest.approx(end)
    # No attempt goes on behind the end.
    over = sum(
        begin + seconds > end + 1e-9 for begin, (seconds, _) in zip(started, attempts, strict=False)
    )
    assert race.cancelled == over
