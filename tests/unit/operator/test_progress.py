from __future__ import annotations

import io
import os
import pty
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TextIO

import pytest

from tailrace.operator.progress import Style, TerminalLine, progress_line
from tailrace.operator.state import HolderState, Origin, Phase

ID = "0233a1b2-c3d4"
OPENED = HolderState(Phase.CONNECTING, Origin.OPENED, ID, waiting_since=10.0)


@pytest.mark.parametrize(
    ("state", "now", "text"),
    [
        (HolderState(), 10, "opening a tunnel"),
        (OPENED, 11, "tunnel 0233… opened · notified"),
        (replace(OPENED, origin=Origin.TAKEN), 11, "tunnel 0233… taken"),
        (
            replace(OPENED, phase=Phase.WAITING),
            11,
            "tunnel 0233… opened · notified · waiting for the device",
        ),
        (
            replace(OPENED, phase=Phase.WAITING, hint="last seen 3 days ago"),
            30.9,
            "notified 20 s ago, nobody connected (last seen 3 days ago). Ctrl-C closes the tunnel.",
        ),
        (
            replace(OPENED, phase=Phase.WAITING, origin=Origin.TAKEN),
            30,
            "nobody connected for 20 s. Ctrl-C ends this.",
        ),
        (
            replace(OPENED, phase=Phase.WAITING, cause="the device has disconnected"),
            11,
            "the device has disconnected 1 s ago. Ctrl-C closes the tunnel.",
        ),
        (
            replace(OPENED, phase=Phase.WAITING, cause="the device has disconnected", waiting=3),
            11,
            "the device has disconnected 1 s ago, 3 connections wait. Ctrl-C closes the tunnel.",
        ),
        (
            replace(OPENED, phase=Phase.RECONNECTING, cause="no route", retry_at=14.2),
            11,
            "tunnel 0233… opened · notified · no route; again in 3 s",
        ),
        (
            replace(OPENED, phase=Phase.RECONNECTING, cause="no route", retry_at=1),
            11,
            "tunnel 0233… opened · notified · no route; again now",
        ),
        (
            replace(OPENED, phase=Phase.READY, tunnel_id="ab"),
            11.21,
            "tunnel ab opened · notified · device connected (1.2 s)",
        ),
        (replace(OPENED, phase=Phase.CLOSING), 11, "closing tunnel 0233…"),
    ],
)
def test_what_is_said(state: HolderState, now: float, text: str) -> None:
    line = progress_line("pump-7", state, 10.01, now)
    assert "".join(piece for piece, _ in line) == f"pump-7: {text}"
    assert line[0] == ("pump-7: ", Style.NAME)


class Screen:
    """A terminal that is looked at."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")

    def shows(self, text: str) -> bool:
        """Return whether this is written to it next."""
        seen = ""
        while len(seen) < len(text):
            seen += os.read(self.master, 65536).decode()
        return seen == text

    def close(self) -> None:
        with suppress(OSError):
            os.close(self.master)
        with suppress(OSError):
            self.stream.close()


@pytest.fixture
def screen() -> Iterator[Screen]:
    screen = Screen()
    yield screen
    screen.close()


LINE = [("pump-7: ", Style.NAME), ("ok \x1b[2J", Style.GOOD)]


def test_a_line_is_rewritten_and_kept(screen: Screen) -> None:
    line = TerminalLine(screen.stream, {"TERM": "xterm"})
    line.show(LINE)
    line.show(LINE)
    assert screen.shows("\r\x1b[J\x1b[1mpump-7: \x1b[0m\x1b[32mok ?[2J\x1b[0m")
    line.clear()
    line.clear()
    assert screen.shows("\r\x1b[J")
    line.keep(LINE)
    assert screen.shows("\r\x1b[J\x1b[1mpump-7: \x1b[0m\x1b[32mok ?[2J\x1b[0m\r\n")


def test_a_line_of_several_rows(screen: Screen) -> None:
    os.system(f"stty cols 12 < {os.ttyname(screen.stream.fileno())}")
    line = TerminalLine(screen.stream, {"TERM": "xterm", "NO_COLOR": "1"})
    line.show(LINE)  # 14 columns
    assert screen.shows("\r\x1b[Jpump-7: ok ?[2J")
    line.show([("pump-7: ", Style.NAME), ("x" * 41, Style.GOOD), ("more", Style.BAD)])
    assert screen.shows(f"\x1b[1A\r\x1b[Jpump-7: {'x' * 39}…")
    line.clear()
    assert screen.shows("\x1b[3A\r\x1b[J")
    line.keep([("pump-7: ", Style.NAME), ("x" * 60, Style.GOOD)])  # whatever its length
    assert screen.shows(f"\r\x1b[Jpump-7: {'x' * 60}\r\n")


def test_a_terminal_without_a_cursor(screen: Screen) -> None:
    line = TerminalLine(screen.stream, {"TERM": "dumb"})
    for text in ("waiting 1 s", "waiting 2 s", "there"):
        line.show([("pump-7: ", Style.NAME), (text, Style.GOOD)])
    line.keep(LINE)
    line.clear()
    assert screen.shows("pump-7: waiting 1 s\r\npump-7: there\r\npump-7: ok ?[2J\r\n")


def test_nothing_in_a_pipe_or_on_a_terminal_that_has_gone(screen: Screen) -> None:
    pipe = io.StringIO()
    line = TerminalLine(pipe, {"TERM": "xterm"})
    line.show(LINE)
    line.keep(LINE)
    line.clear()
    assert (pipe.getvalue(), line.is_shown) == ("", False)
    line = TerminalLine(screen.stream, {"TERM": "xterm"})
    os.close(screen.master)
    line.show(LINE)
    assert not line.is_shown
