"""Events of a tunnel, from their classes and from what ``localproxy --json`` writes of them."""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
from pathlib import Path
from typing import Final, get_args

import tailrace
from tailrace.cli.localproxy.reporters import JSONReporter, dropped_events
from tailrace.common.addresses import TCPAddress
from tailrace.errors import ConnectFailed
from tailrace.localproxy.events import (
    Connected,
    Connecting,
    ConnectionClosed,
    ConnectionCut,
    ConnectionOpened,
    ConnectionRefused,
    Ended,
    Listening,
    ListeningOnNetwork,
    PeerDialectLearned,
    PeerJoined,
    PeerLeft,
    PeerSilent,
    ProxyEvent,
    Reconnecting,
    ServicesMapped,
    Started,
    TunnelPaused,
    TunnelResumed,
)
from tailrace.service.telemetry.audit import AuditLog
from tailrace.wire import Side

from .markdown import attribute_docs, first_paragraph, notice, table

__all__ = ["SAMPLES", "audit_lines", "json_lines", "page"]

_PEER: Final = "127.0.0.1:50622"
_TUNNEL: Final = "5d1c9e3f0a7b2c44"

SAMPLES: Final[tuple[ProxyEvent, ...]] = (
    Started(Side.SOURCE),
    Connecting("data.tunneling.iot.us-east-1.amazonaws.com:443"),
    Connected("data.tunneling.iot.us-east-1.amazonaws.com:443", "0f2c5a", "picows", True),
    ServicesMapped({"SSH": TCPAddress("127.0.0.1", 5555)}),
    Listening("SSH", TCPAddress("127.0.0.1", 5555), False),
    ListeningOnNetwork(TCPAddress("192.0.2.1", 5555)),
    PeerJoined(Side.DESTINATION),
    PeerLeft(Side.DESTINATION),
    PeerDialectLearned("V1"),
    PeerSilent("SSH", 10.0),
    ConnectionOpened("SSH", 1, _PEER),
    ConnectionRefused("SSH", 2, "the limit of 12000 connections is reached"),
    ConnectionCut("SSH", 1, _PEER, 4096, "the link to the service was lost"),
    ConnectionClosed("SSH", 1, _PEER, 1024, 4096),
    Reconnecting(ConnectFailed("cannot connect: connection refused"), 1.5),
    TunnelPaused("link lost", 2, 120.0),
    TunnelResumed(1.8, 2, 4096),
    Ended(1000, "Tunnel is closed"),
)
"""One of each, in the order of a tunnel's life."""

_INTRODUCTION: Final = """\
# Events

What happens in a tunnel is an event: [`tunnel.events()`](library.md#events) yields them, and
`localproxy --json` writes most of them, one JSON object on a line of standard output. There may be
more members at any time.
"""

_JSON: Final = """\
## In JSON

Each object has `event`, `time` (UTC) and `tunnel`, the first 16 digits of the SHA-256 of the access
token in hex: it tells this end of the tunnel from others, and stays the same when the command is
started again.
"""


_AUDIT: Final = """\
## In the audit log

A service that has [`--audit-log`](../guides/deployment.md#what-it-tells) writes these. An operation
of the control API is an event of its name; `outcome` is `ok` or an error code. Where events of a
kind were too many, one line counts the rest as `more`.
"""


def json_lines() -> dict[str, str]:
    """Return name of an event in JSON -> a line with it."""
    out = io.StringIO()
    reporter = JSONReporter(out, _TUNNEL)
    for event in SAMPLES:
        reporter(event)
    out.write(dropped_events(_TUNNEL, 57))
    reporter.failed(3, "AccessRefused", "Proxy server rejected web socket upgrade request: ...")
    lines = {}
    for line in out.getvalue().splitlines():
        members = json.loads(line) | {"time": "2026-01-31T12:34:56.123+00:00"}
        if "pid" in members:
            members["pid"] = 4711
        lines[members["event"]] = json.dumps(members)
    return lines


def audit_lines() -> dict[str, str]:
    """Return name of an event in the audit log of a service -> a line with it."""
    link = ("b4f1a7d2-0c52-4f0e-9d1e-1f6c7a2b3c4d", "source", "192.0.2.7:41822", "0f2c5a")
    tunnel, side, address, channel = link
    about = {"invitation": "5ab1", "role": "device", "name": "pump-7"}
    about["creator"] = "tailrace invite"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "audit.jsonl")
        audit = AuditLog(path, lambda: 1_769_862_896.123)
        audit.request(
            "OpenTunnel",
            {"destinationConfig": {"thingName": "pump-7", "services": ["SSH"]}},
            key="AKIAXXXXXXXXXXXXXXXX",
            address=address,
            request="7f3c",
            outcome="ok",
            tunnel=tunnel,
        )
        audit.link("connected", *link)
        audit.link("disconnected", *link)
        audit.refused("token_used", address, channel, side, tunnel)
        audit.expired(tunnel)
        audit.invitation("invited", about)
        audit.invitation("invitation_revoked", about)
        audit.invitation("joined", about | {"key": "AKIAXXXXXXXXXXXXXXXX", "address": address})
        audit.join_refused("expired", "5ab1", address)
        audit.close()
        lines = path.read_text(encoding="utf-8").splitlines()
    return {json.loads(line)["event"]: line for line in lines}


def _classes() -> str:
    rows = []
    for kind in (*get_args(ProxyEvent), tailrace.EventsDropped):
        docs = attribute_docs(kind)
        fields = [
            f"`{field.name}`" + (f" ({docs[field.name].rstrip('.')})" if field.name in docs else "")
            for field in dataclasses.fields(kind)
        ]
        rows.append([f"`{kind.__name__}`", first_paragraph(kind), ", ".join(fields)])
    return table(["Event", "Means", "Fields"], rows)


def page() -> str:
    """Return the page."""
    parts = [notice("src/tailrace/localproxy/events.py and what localproxy writes of them")]
    parts += [_INTRODUCTION, "## In a program\n", _classes(), _JSON]
    parts += ["```json", *json_lines().values(), "```", ""]
    parts += [
        "`closed` and `failed` are the last: the command ends with code 0, or with `exit`. A",
        "reader that is too slow finds `events_dropped` in the place of what it has missed.",
        "",
    ]
    parts += [_AUDIT, "```json", *audit_lines().values(), "```", ""]
    return "\n".join(parts)
