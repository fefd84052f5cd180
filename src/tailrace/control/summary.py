"""A document in a few lines, for logs and for those who have no table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ..common.escaping import cut, escape

if TYPE_CHECKING:
    from ..localproxy.events import TunnelPaused, TunnelResumed

__all__ = [
    "duration",
    "failures_text",
    "pause_text",
    "paused_text",
    "resumed_text",
    "round_trip_text",
    "size",
    "summary_lines",
    "waiting_text",
]

_MOST_TUNNELS: Final = 50
_LONGEST: Final = 600
"""Characters of a line."""
_LONGEST_CAUSE: Final = 200
_UNITS: Final = ("kB", "MB", "GB", "TB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def summary_lines(document: Mapping[str, Any]) -> list[str]:
    """Return what a document says: a line for the process, and one for each tunnel."""
    tunnels = document.get("tunnels", [])
    lines = [_process_text(document)]
    lines += [_tunnel_line(each, document["time"]) for each in tunnels[:_MOST_TUNNELS]]
    if len(tunnels) > _MOST_TUNNELS:
        lines.append(f"and {len(tunnels) - _MOST_TUNNELS} more tunnels")
    return [escape(cut(line, _LONGEST)) for line in lines]


def _process_text(document: Mapping[str, Any]) -> str:
    """Return what a process is, and what it does besides its tunnels."""
    age = duration(document["time"] - document["since"])
    text = f"{document['kind']} {document['pid']}, up {age}"
    summary = document.get("summary", "")
    return f"{text}: {summary}" if summary else text


def _tunnel_line(tunnel: Mapping[str, Any], now: float) -> str:
    services = ", ".join(tunnel["services"]) or "no service yet"
    parts = [
        f"tunnel {tunnel['tunnel']}",
        f"{tunnel['side']} of {services}",
        _link_text(tunnel, now),
        f"{tunnel['open']} of {tunnel['opened']} connections open",
        f"{size(tunnel['bytes_in'])} in, {size(tunnel['bytes_out'])} out",
    ]
    return "; ".join(parts)


def _link_text(tunnel: Mapping[str, Any], now: float) -> str:
    """Return how the link of a tunnel stands, how often it was lost, and why."""
    parts = [f"{tunnel['phase']} to {tunnel['endpoint']}"]
    if tunnel["round_trip"] is not None:
        parts.append(f"round trip {round_trip_text(tunnel['round_trip'])}")
    if tunnel["peer"] in ("absent", "connected"):
        parts.append(f"peer {tunnel['peer']}")
    if tunnel["waiting"]:
        parts.append(pause_text(tunnel, now))
    if tunnel["failures"]:
        parts.append(failures_text(tunnel, now))
    return ", ".join(parts)


def failures_text(tunnel: Mapping[str, Any], now: float) -> str:
    """Return how often the link of a tunnel was lost or could not be set up, and why."""
    causes = ", ".join(f"{name} {count:d}" for name, count in tunnel["failures"].items())
    ago = duration(now - tunnel["last_failure"])
    cause = cut(tunnel["last_cause"], _LONGEST_CAUSE)
    return f"reconnects: {tunnel['reconnects']:d} ({causes}; last {ago} ago: {cause})"


def pause_text(tunnel: Mapping[str, Any], now: float) -> str:
    """Return how many connections of a tunnel wait until link and peer are back, and since when."""
    return f"paused for {duration(now - tunnel['paused_since'])}: {waiting_text(tunnel['waiting'])}"


def paused_text(event: TunnelPaused) -> str:
    """Return what is logged of connections that begin to wait."""
    return f"paused: {event.cause}, {waiting_text(event.connections)} up to {event.timeout:g} s"


def resumed_text(event: TunnelResumed) -> str:
    """Return what is logged when they go on."""
    if not event.connections:
        return f"resumed after {event.after:.1f} s, no connection is left"
    return f"resumed after {event.after:.1f} s, {size(event.bytes_again)} sent again"


def waiting_text(count: int) -> str:
    """Return how many connections wait until link and peer are back."""
    return "1 connection waits" if count == 1 else f"{count:d} connections wait"


def round_trip_text(seconds: float | None) -> str:
    """Return a round trip for people, "" if there is none."""
    return "" if seconds is None else f"{seconds * 1000:.1f} ms"


def size(count: float) -> str:
    """Return a number of bytes for people, in powers of a thousand."""
    if count < 999.5:
        return f"{count:.0f} B"
    for unit in _UNITS:
        count /= 1000
        if count < 999.5 or unit == _UNITS[-1]:
            break
    return f"{count:.{1 if count < 99.95 else 0}f} {unit}"


def duration(seconds: float) -> str:
    """Return a time for people: its two largest units."""
    left = max(0, int(seconds))
    if left < _MINUTE:
        return f"{left} s"
    if left < _HOUR:
        return f"{left // _MINUTE} min {left % _MINUTE} s"
    if left < _DAY:
        return f"{left // _HOUR} h {left % _HOUR // _MINUTE} min"
    return f"{left // _DAY} d {left % _DAY // _HOUR} h"
