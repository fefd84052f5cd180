"""What a person sees of a tunnel in use."""

import io
import re
import sys
from dataclasses import replace

import pytest

from tailrace.operator.connect_view import (
    LineView,
    Picture,
    Place,
    TableView,
    make_view,
)
from tailrace.operator.progress import TerminalLine
from tailrace.operator.state import HolderState, Origin, Phase
from tailrace.operator.traffic import ServiceTraffic

OPENING = Picture(
    "pump-7",
    HolderState(Phase.CONNECTING, Origin.OPENED, "0233aabb"),
    started=0.0,
    now=1.25,
)
READY = replace(
    OPENING,
    state=replace(OPENING.state, phase=Phase.READY),
    round_trip=0.0234,
    places=(
        Place("WEB", "127.0.0.1:8080", "http://127.0.0.1:8080/"),
        Place("SSH", "127.0.0.1:2222"),
    ),
    traffic={"WEB": ServiceTraffic(2, 14, 1200, 3_000_000, 500.0, 1500.0)},
)


class Screen(io.StringIO):
    """A terminal of which only the writing is looked at."""

    is_gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.is_gone:
            raise OSError("gone")
        return super().write(text)

    def lines(self) -> list[str]:
        """Return what was written since the last call, without escape sequences."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        self.seek(0)
        self.truncate()
        return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Screen()


def line_of(screen: Screen, term: str = "xterm") -> TerminalLine:
    return TerminalLine(screen, {"TERM": term})


def test_a_table(screen: Screen) -> None:
    view = make_view(line_of(screen), screen)
    assert isinstance(view, TableView)
    view.show(OPENING)
    assert screen.lines() == ["pump-7: tunnel 0233… opened · notified"]
    view.note("pump-7", "closed an old one\x1b[2J")
    assert screen.lines() == ["pump-7: closed an old one?[2J"]
    view.show(READY)
    first, head, columns, web, ssh = screen.lines()
    assert first == "pump-7: tunnel 0233… opened · notified · device connected (1.2 s)"
    assert head == "pump-7: device connected · round trip 23 ms"
    assert columns.split() == ["SERVICE", "ADDRESS", "CONNECTIONS", "SENT", "RECEIVED", "RATE"]
    assert re.split(r"  +", web) == [
        *("WEB", "http://127.0.0.1:8080/", "2 of 14", "1.2 kB", "3.0 MB", "2.0 kB/s")
    ]
    assert re.split(r"  +", ssh) == ["SSH", "127.0.0.1:2222", "0 of 0", "0 B", "0 B", "-"]
    view.note("pump-7", "no [bold]browser[/]")
    assert screen.lines()[0] == "pump-7: no [bold]browser[/]"
    lost = replace(
        READY.state, phase=Phase.RECONNECTING, cause="connection reset", retry_at=READY.now + 4
    )
    view.show(replace(READY, state=lost))
    assert screen.lines()[0] == "pump-7: reconnecting in 4 s: connection reset"
    view.show(replace(READY, state=replace(lost, waiting=1)))
    text = "pump-7: reconnecting in 4 s, 1 connection waits: connection reset"
    assert screen.lines()[0] == text
    view.show(replace(READY, outcome="tunnel 0233… closed"))
    view.close()
    assert screen.lines()[0] == "pump-7: tunnel 0233… closed"
    assert "\x1b" not in screen.getvalue()


def test_a_terminal_that_is_closed(screen: Screen) -> None:
    view = make_view(line_of(screen), screen)
    view.show(READY)
    screen.is_gone = True
    view.show(replace(READY, round_trip=0.1))
    view.note("pump-7", "x")
    view.show(READY)
    view.close()
    screen.is_gone = False
    view = make_view(line_of(screen), screen)
    view.show(READY)
    screen.is_gone = True
    view.note("pump-7", "x")
    view.close()


def test_without_rich(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    view = make_view(line_of(screen), screen)
    assert isinstance(view, LineView)
    view.show(OPENING)
    view.show(READY)
    assert screen.lines()[-4:] == [
        "pump-7: tunnel 0233… opened · notified · device connected (1.2 s)",
        "WEB http://127.0.0.1:8080/",
        "SSH 127.0.0.1:2222",
        "pump-7: device connected · round trip 23 ms · 2 connections · "
        "sent 1.2 kB, received 3.0 MB",
    ]
    view.note("pump-7", "no browser")
    view.show(replace(READY, outcome="tunnel 0233… closed"))
    view.close()
    assert screen.lines()[-1].startswith("pump-7: tunnel 0233… closed")


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_without_a_cursor(screen: Screen, term: str) -> None:
    assert isinstance(make_view(line_of(screen, term), screen), LineView)


def test_for_programs_only_the_opening_is_shown(screen: Screen) -> None:
    view = LineView(line_of(screen), only_opening=True)
    view.show(OPENING)
    view.show(READY)
    view.show(replace(READY, round_trip=1.0))
    view.close()
    assert screen.lines()[1:] == [
        "pump-7: tunnel 0233… opened · notified · device connected (1.2 s)"
    ]


def test_a_pipe_is_shown_nothing() -> None:
    out = io.StringIO()
    view = make_view(TerminalLine(out, {"TERM": "xterm"}), out)
    for picture in (OPENING, READY):
        view.show(picture)
    view.note("pump-7", "x")
    view.close()
    assert out.getvalue() == ""
