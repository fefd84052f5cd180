from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from support.service.scripted_client import ScriptedClient
from support.waiting import HANG, wait_until
from tailrace.operator import reaching, sharing
from tailrace.operator.failures import CommandFailed, Terminated
from tailrace.operator.messages import MessageReader, encode_message
from tailrace.operator.progress import TerminalLine
from tailrace.operator.reaching import reached, terminable
from tailrace.operator.state import HolderState, Origin, Phase
from tailrace.operator.wish import WantedTunnel, Wish

STATE = HolderState(Phase.CONNECTING, Origin.OPENED, "0233a1b2")


class Screen(io.StringIO):
    """A terminal, of which all is kept."""

    def isatty(self) -> bool:
        return True


class Play:
    """A holder that plays a part: states, then what follows on ``leave``."""

    def __init__(self, *steps: bytes, goodbye: bytes = encode_message("ended", True)) -> None:
        self.steps = steps
        self.goodbye = goodbye
        self.paths: list[Path] = []
        self.stack = ExitStack()

    def __call__(self, listening: socket.socket, path: Path, lock: Path) -> None:
        self.paths.append(path)
        kept = self.stack.enter_context(listening.dup())
        thread = Thread(target=self._run, args=(kept,))
        thread.start()
        self.stack.callback(thread.join, HANG)

    def pause(self) -> None:
        """Called after each step."""

    def _run(self, listening: socket.socket) -> None:
        sock, _ = listening.accept()
        # A command that was told of a failure may have gone.
        with sock, suppress(ConnectionError):
            for step in self.steps:
                sock.sendall(step)
                self.pause()
            while data := sock.recv(65536):
                if {"leave": True} in MessageReader().feed(data):
                    sock.sendall(self.goodbye)


class Paced(Play):
    """Says one thing at a time, each when the last one is on the screen."""

    def __init__(self, line: TerminalLine, *steps: bytes) -> None:
        super().__init__(*steps)
        self._line = line

    def pause(self) -> None:
        wait_until(lambda: "notified" in shown(self._line), "the line")


def state(**changes: Any) -> bytes:
    return encode_message("state", replace(STATE, **changes).to_document())


@pytest.fixture
def played(short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    parts: list[Play] = []

    def play(part: Play) -> Wish:
        parts.append(part)
        monkeypatch.setattr(reaching, "fork_holder", lambda wish: part)
        wanted = WantedTunnel("pump-7", ("SSH",), short / "ledger")
        return Wish(wanted, ScriptedClient, lambda error: 3)

    yield play
    for part in parts:
        part.stack.close()


@pytest.fixture
def line() -> TerminalLine:
    return TerminalLine(Screen(), {"TERM": "xterm", "NO_COLOR": "1"})


def shown(line: TerminalLine) -> str:
    return str(line._stream.getvalue())


def test_a_device_that_comes(played: Any, line: TerminalLine) -> None:
    old, both = ("from before",), ("from before", "a note")
    wish = played(Paced(line, state(notes=old), state(phase=Phase.READY, notes=both)))
    with reached(wish, line) as membership:
        assert membership.state.phase is Phase.READY
    text = shown(line)
    assert text.count("\r\x1b[Jpump-7: a note\n") == 1
    assert "from before" not in text
    assert text.endswith("s)\n")
    assert "pump-7: tunnel 0233… opened · notified · device connected (0." in text


def test_a_tunnel_that_takes_its_time_to_close(
    played: Any, line: TerminalLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "_QUICK", -1.0)
    part = Play(state(phase=Phase.READY), goodbye=state(phase=Phase.CLOSING))
    wish = played(part)

    def end() -> None:
        wait_until(lambda: "closing tunnel 0233…" in shown(line), "the line")
        for sock in holders:
            sock.shutdown(socket.SHUT_RDWR)

    holders: list[socket.socket] = []
    thread = Thread(target=end)
    with pytest.raises(CommandFailed, match="has ended"):
        with reached(wish, line) as membership:
            holders.append(membership._sock)
            thread.start()
    thread.join(HANG)
    assert shown(line).endswith("closing tunnel 0233…\r\x1b[J")


def test_a_device_that_does_not_come(played: Any, line: TerminalLine) -> None:
    wish = played(Play(state(phase=Phase.WAITING), encode_message("failed", "no device", status=4)))
    with pytest.raises(CommandFailed) as caught, reached(wish, line):
        raise AssertionError("nobody is there")
    assert caught.value.status == 4
    assert shown(line).endswith("\r\x1b[J")


def test_a_holder_that_says_nothing(played: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody sees it, nothing else would end the wait."""
    monkeypatch.setattr(sharing, "_SILENCE", 0.0)
    with (
        pytest.raises(CommandFailed, match="does not answer"),
        reached(played(Play()), TerminalLine(io.StringIO(), {})),
    ):
        raise AssertionError("there is no tunnel")


def test_nothing_is_said_in_a_pipe(played: Any) -> None:
    wish = played(Play(state(), state(phase=Phase.READY)))
    stream = io.StringIO()
    with reached(wish, TerminalLine(stream, {})):
        pass
    assert stream.getvalue() == ""


def test_other_wishes_have_other_holders(played: Any, line: TerminalLine) -> None:
    paths = set()
    changes: list[dict[str, Any]] = [{}, {"new": True}, {"new": True}, {"services": ("ADMIN",)}]
    for each in changes:
        part = Play(state(phase=Phase.READY))
        wish = played(part)
        with reached(replace(wish, tunnel=replace(wish.tunnel, **each)), line):
            paths.add(part.paths[0])
    assert len(paths) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_block(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Terminated) as caught, terminable():
        os.kill(os.getpid(), number)
        signal.pause()
    assert caught.value.number == number
    assert signal.getsignal(number) is before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
