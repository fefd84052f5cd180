from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest

from support.service.scripted_client import ScriptedClient
from support.waiting import HANG
from tailrace.control.places import connected
from tailrace.errors import ConfigurationError
from tailrace.operator import holder, sharing
from tailrace.operator.failures import CommandFailed
from tailrace.operator.messages import encode_message
from tailrace.operator.sharing import Membership, fork_holder, join, share_name
from tailrace.operator.state import HolderState, Phase
from tailrace.operator.wish import WantedTunnel, Wish


class Starts:
    """Keeps the sockets of holders, and is each of them."""

    def __init__(self) -> None:
        self.listening: list[socket.socket] = []

    def __call__(self, listening: socket.socket, path: Path, lock: Path) -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        assert lock.parent == path.parent
        self.listening.append(listening.dup())

    def close(self) -> None:
        for each in self.listening:
            each.close()


def test_the_first_starts_a_holder_and_others_find_it(short: Path) -> None:
    starts = Starts()
    first, second = (join(short / "run", "a", starts) for _ in range(2))
    other = join(short / "run", "b", starts)
    assert len(starts.listening) == 2
    assert first.path == second.path != other.path
    assert (short / "run").stat().st_mode & 0o777 == 0o700
    starts.listening[0].close()  # killed
    third = join(short / "run", "a", starts)
    assert len(starts.listening) == 3
    starts.listening[1].close()
    starts.listening[2].close()
    # Sockets of the dead are removed by whoever comes next.
    fourth = join(short / "run", "c", starts)
    assert [path.name for path in (short / "run").glob("*.holder")] == ["c.holder"]
    for each in (first, second, third, other, fourth):
        each.close()
    starts.close()


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    starts = Starts()
    with pytest.raises(ConfigurationError, match="path too long; set XDG_RUNTIME_DIR"):
        join(tmp_path / ("x" * 100), "a", starts)
    assert starts.listening == []


@pytest.fixture
def stopped(short: Path) -> Iterator[socket.socket]:
    """A holder whose queue is full; nobody takes from it."""
    (short / "run").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listening, ExitStack() as waiting:
        listening.bind(str(short / "run" / "a.holder"))
        listening.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                waiting.enter_context(connected(short / "run" / "a.holder"))
        yield listening


def test_a_holder_that_takes_no_more(
    short: Path, stopped: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = Starts()
    monkeypatch.setattr(sharing, "_SILENCE", 0.0)
    with pytest.raises(CommandFailed, match="does not answer; it may be stopped"):
        join(short / "run", "a", starts)
    # It holds up no other one, and is not taken for dead.
    join(short / "run", "b", starts).close()
    assert len(starts.listening) == 1
    assert (short / "run" / "a.holder").exists()
    starts.close()


def test_a_holder_that_is_slow_to_take(
    short: Path, stopped: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing.time, "sleep", lambda seconds: stopped.accept()[0].close())
    membership = join(short / "run", "a", Starts())
    assert membership._sock.getblocking()
    membership.close()


def test_who_shares_with_whom() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "PATH": "p"}
    name = share_name("pump-7", environment)
    assert len(name) == 16
    assert share_name("pump-7", environment | {"AWS_SECRET_ACCESS_KEY": "t", "PATH": "q"}) == name
    others = [{"AWS_ACCESS_KEY_ID": "b"}, {"AWS_PROFILE": "lab"}, {"https_proxy": "http://p"}]
    names = {share_name("pump-7", environment | each) for each in others}
    assert len({name, share_name("pump-8", environment), *names}) == 5


# -- membership -----------------------------------------------------------------------------------


@pytest.fixture
def pair(short: Path):
    ours, theirs = socket.socketpair()
    membership = Membership(ours, short / "s")
    yield membership, theirs
    membership.close()
    theirs.close()


def test_news(pair: tuple[Membership, socket.socket]) -> None:
    membership, holder = pair
    assert not membership.receive(0)
    holder.sendall(encode_message("state", HolderState(Phase.READY).to_document()))
    assert membership.receive(HANG)
    assert membership.state.phase is Phase.READY
    holder.sendall(encode_message("news", "of a later version"))
    membership.check()
    holder.sendall(encode_message("failed", "over", status=7))
    with pytest.raises(CommandFailed, match="over") as caught:
        membership.check()
    assert caught.value.status == 7


def test_a_connection_and_none(pair: tuple[Membership, socket.socket]) -> None:
    membership, holder = pair
    here, there = socket.socketpair()
    there.setblocking(False)
    with here, there:
        socket.send_fds(holder, [encode_message("connection", "SSH")], [there.fileno()])
        with membership.open_socket("SSH") as sock:
            assert sock.getblocking()
            here.sendall(b"x")
            assert sock.recv(9) == b"x"
        # One that nobody takes is closed.
        socket.send_fds(holder, [encode_message("connection", "SSH")], [there.fileno()])
        membership.check()
    holder.sendall(encode_message("refused", "no such service", status=7))
    membership.close()


def test_a_connection_that_is_refused(pair: tuple[Membership, socket.socket]) -> None:
    membership, holder = pair
    holder.sendall(encode_message("refused", "no such service", status=7))
    with pytest.raises(CommandFailed, match="no such service"):
        membership.open_socket("SSH")


def test_a_holder_that_dies(pair: tuple[Membership, socket.socket]) -> None:
    membership, holder = pair
    holder.close()
    with pytest.raises(CommandFailed, match="has ended"):
        membership.open_socket("SSH")
    with pytest.raises(CommandFailed, match="has ended"):
        membership.leave(lambda: None)


def test_leaving(pair: tuple[Membership, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    membership, holder = pair
    waits: list[int] = []

    def wait() -> None:
        waits.append(1)
        holder.sendall(encode_message("ended", True))

    membership.leave(wait)
    assert waits == [1]
    assert holder.recv(99) == encode_message("leave", True)


def test_a_holder_that_does_not_answer(
    pair: tuple[Membership, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    membership, _ = pair
    monkeypatch.setattr(sharing, "_GOODBYE", 0.0)
    with pytest.raises(CommandFailed, match="still being closed"):
        membership.leave(lambda: None)


def test_a_holder_that_says_nothing(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_SILENCE", -1.0)
    ours, theirs = socket.socketpair()
    with theirs:
        membership = Membership(ours, short / "s")
        with pytest.raises(CommandFailed, match="does not answer; it may be stopped"):
            membership.receive(0)
        # Nor is its goodbye waited for.
        membership.leave(pytest.fail)
        membership.close()
        # One that has said something may be silent for as long as it likes.
        ours, theirs2 = socket.socketpair()
        with theirs2:
            membership = Membership(ours, short / "s")
            theirs2.sendall(encode_message("state", HolderState().to_document()))
            assert membership.receive(HANG)
            assert not membership.receive(0)
            membership.close()


# -- the fork -------------------------------------------------------------------------------------


def wish(short: Path) -> Wish:
    wanted = WantedTunnel("pump-7", ("SSH",), short / "ledger", timeout=0.2)
    return Wish(wanted, ScriptedClient, lambda error: 9)


def test_a_holder_of_its_own(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no child of the command, and what the command has open does not stay open."""
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", "127.0.0.1:1")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    membership = join(short / "run", "a", fork_holder(wish(short)))
    os.close(writer)
    with pytest.raises(CommandFailed, match="could not be used within") as caught:
        while True:
            membership.receive(HANG)
    assert caught.value.status == 9
    assert os.read(reader, 1) == b""
    os.close(reader)
    membership.close()


class Ended(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize("parent", [0, 1])
def test_how_a_holder_begins(short: Path, monkeypatch: pytest.MonkeyPatch, parent: int) -> None:
    """The child of the fork, in this process: what it calls, and in which order."""
    calls: list[object] = []

    def end(status: int) -> None:
        calls.append(status)
        raise Ended

    monkeypatch.setattr(os, "setsid", lambda: calls.append("setsid"))
    monkeypatch.setattr(os, "fork", lambda: parent)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(os, "dup2", lambda null, number: calls.append(number))
    monkeypatch.setattr(os, "closerange", lambda low, high: calls.append((low, high)))
    monkeypatch.setattr(holder, "hold", lambda *arguments: calls.append("hold"))
    opened: list[int] = []
    really_open = os.open
    monkeypatch.setattr(
        os, "open", lambda *arguments: opened.append(really_open(*arguments)) or opened[-1]
    )
    with socket.socket(socket.AF_UNIX) as listening, pytest.raises(Ended):
        number = listening.fileno()
        sharing._hold(wish(short), listening, short / "s", short / "l")
    for each in opened:
        os.close(each)
    kept = [0, 1, 2, (3, number), (number + 1, os.sysconf("SC_OPEN_MAX")), "hold"]
    assert calls == ["setsid", *(() if parent else kept), 0]


def test_a_signal_while_it_waits_is_no_end_of_membership(
    pair: tuple[Membership, socket.socket],
) -> None:
    membership, holder = pair
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    me = os.getpid()

    def poke() -> None:
        os.kill(me, signal.SIGUSR1)
        holder.sendall(encode_message("ended", True))

    thread = Thread(target=poke)
    thread.start()
    assert membership.receive(HANG)
    thread.join()
    signal.signal(signal.SIGUSR1, previous)
