from __future__ import annotations

import pytest

from tailrace.control.summary import duration, paused_text, resumed_text, size, summary_lines
from tailrace.localproxy.events import TunnelPaused, TunnelResumed

TUNNEL = {
    "tunnel": "#ab",
    "side": "source",
    "services": {"SSH": 1, "WEB": 0},
    "phase": "connected",
    "endpoint": "host:443",
    "round_trip": 0.0123,
    "peer": "connected",
    "reconnects": 2,
    "failures": {"ConnectFailed": 3, "LinkError": 1},
    "last_cause": "cannot connect",
    "last_failure": 40.0,
    "open": 1,
    "opened": 7,
    "bytes_in": 1_234_567,
    "bytes_out": 12,
    "paused_since": None,
    "waiting": 0,
    "pauses": 0,
    "bytes_again": 0,
}
PROCESS = {"kind": "localproxy", "pid": 4711, "since": 0.0, "time": 100.0}


def test_a_process_and_its_tunnels():
    quiet = TUNNEL | {"round_trip": None, "peer": "untold", "failures": {}, "services": {}}
    assert summary_lines(PROCESS | {"tunnels": [TUNNEL, quiet]}) == [
        "localproxy 4711, up 1 min 40 s",
        "tunnel #ab; source of SSH, WEB; connected to host:443, round trip 12.3 ms, peer connected,"
        " reconnects: 2 (ConnectFailed 3, LinkError 1; last 1 min 0 s ago: cannot connect);"
        " 1 of 7 connections open; 1.2 MB in, 12 B out",
        "tunnel #ab; source of no service yet; connected to host:443; 1 of 7 connections open;"
        " 1.2 MB in, 12 B out",
    ]


@pytest.mark.parametrize(
    ("waiting", "text"), [(1, "1 connection waits"), (3, "3 connections wait")]
)
def test_a_tunnel_whose_connections_wait(waiting: int, text: str):
    paused = TUNNEL | {"failures": {}, "paused_since": 88.0, "waiting": waiting}
    (_, line) = summary_lines(PROCESS | {"tunnels": [paused]})
    assert f"peer connected, paused for 12 s: {text}; 1 of 7" in line
    assert paused_text(TunnelPaused("link lost", waiting, 0.5)).endswith(f"{text} up to 0.5 s")


def test_what_is_logged_of_a_pause():
    paused = TunnelPaused("link lost", 3, 120.0)
    assert paused_text(paused) == "paused: link lost, 3 connections wait up to 120 s"
    resumed = TunnelResumed(3.21, 3, 1_100_000)
    assert resumed_text(resumed) == "resumed after 3.2 s, 1.1 MB sent again"
    assert resumed_text(TunnelResumed(3.21, 0, 0)) == "resumed after 3.2 s, no connection is left"


def test_a_process_without_tunnels():
    assert summary_lines(PROCESS | {"summary": "3 tunnels"}) == [
        "localproxy 4711, up 1 min 40 s: 3 tunnels"
    ]


def test_lines_are_bounded():
    loud = TUNNEL | {"last_cause": "\x1b[2J" + 10_000 * "x", "endpoint": 10_000 * "e"}
    lines = summary_lines(PROCESS | {"tunnels": [loud] * 1000})
    assert len(lines) == 52
    assert lines[-1] == "and 950 more tunnels"
    assert all(len(line) < 2000 and line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1.0 kB"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_951, "100 kB"),
        (999_400, "999 kB"),
        (999_600, "1.0 MB"),
        (1_250_000, "1.2 MB"),
        (5e9, "5.0 GB"),
        (5e15, "5000 TB"),
        (12.4, "12 B"),
    ],
)
def test_bytes(count: float, text: str):
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3660, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_times(seconds: float, text: str):
    assert duration(seconds) == text
