from __future__ import annotations

from typing import Any

import pytest

from tailrace.operator.status_table import fitted, plain_lines, status_table

PROCESS = (4711, "localproxy", 0.0)


def test_plain_text(proxy: dict[str, Any], serve: dict[str, Any], tunnel: dict[str, Any]):
    quiet = tunnel | {"tunnel": "", "services": {}, "failures": {}, "round_trip": None}
    proxy["tunnels"].append(quiet)
    agent = proxy | {"kind": "agent", "pid": 1, "tunnels": [], "summary": "all is well"}
    rates = {(*PROCESS, "0233abcd-1234", "source", "bytes_in"): 1500.0}
    assert plain_lines(status_table([agent, serve, proxy], rates)) == [
        "PROCESS                  UP  TUNNEL         SIDE         SERVICES  LINK           RTT"
        "  PEER       CONN      IN   OUT    IN/s  OUT/s  LOST",
        "agent 1          1 min 40 s  -              -            -         -                -"
        "  -             -       -     -       -      -     -",
        "serve 12         1 min 40 s  3 open         source       -         2 up             -"
        "  -             -  5.0 kB     -       -      -     -",
        "serve 12         1 min 40 s  3 open         destination  -         3 up             -"
        "  -             -     0 B     -       -      -     -",
        "localproxy 4711  1 min 40 s  0233abcd-1234  source       SSH,WEB   connected  12.3 ms"
        "  connected   1/7  1.0 MB  12 B  1.5 kB      -     2",
        "localproxy 4711  1 min 40 s  -              source       -         connected        -"
        "  connected   1/7  1.0 MB  12 B       -      -     0",
        "agent 1: all is well",
        "serve 12: tunnels open: 3",
        "localproxy 4711, tunnel 0233abcd-1234: reconnects: 1 (LinkError 2;"
        " last 1 min 0 s ago: lost)",
    ]


def test_connections_that_wait_are_said_below(proxy: dict[str, Any], tunnel: dict[str, Any]):
    tunnel |= {"failures": {}, "paused_since": 88.0, "waiting": 3}
    table = status_table([proxy], {})
    assert table.notes == (
        "localproxy 4711, tunnel 0233abcd-1234: paused for 12 s: 3 connections wait",
    )
    del tunnel["waiting"], tunnel["paused_since"]  # as an older process tells it
    assert status_table([proxy], {}).notes == ()


def test_narrow_terminals_do_without_columns(proxy: dict[str, Any]):
    table = status_table([proxy], {})
    wide = dict(fitted(table, 200))
    assert len(wide) == 14
    assert wide["TUNNEL"] == ("0233abc\u2026",)
    assert "UP" not in dict(fitted(table, 120))
    narrow = fitted(table, 80)
    assert [name for name, _ in narrow][:2] == ["PROCESS", "TUNNEL"]
    widths = [max(map(len, (name, *cells))) for name, cells in narrow]
    assert sum(widths) + 2 * (len(widths) - 1) <= 80
    assert [name for name, _ in fitted(table, 1)] == [
        "PROCESS",
        "TUNNEL",
        "LINK",
        "CONN",
        "IN",
        "OUT",
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {"pid": None, "since": "x"},
        {"tunnels": [{}]},
        {"tunnels": 5},
        {"service": []},
        {"time": 1e999},
        {"service": {"sides": {"source": {"links": "x", "bytes": 0}}, "tunnels": {}}},
    ],
)
def test_documents_that_make_no_sense(proxy: dict[str, Any], broken: dict[str, Any]):
    errors = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
    with pytest.raises(errors):
        status_table([proxy | broken], {})
