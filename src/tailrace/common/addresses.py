"""Network addresses as text."""

from __future__ import annotations

__all__ = ["format_host_port"]


def format_host_port(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 address (RFC 3986 section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
