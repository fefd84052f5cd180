"""``/healthz`` on the data port, so that load balancers can ask where local proxies connect."""

from __future__ import annotations

from .handshake import RequestLine

__all__ = ["answer_health_check"]


def answer_health_check(line: RequestLine | None) -> bytes | None:
    """Return the response to a health check, of any version of HTTP/1; ``None`` if it is none."""
    if line is None or line.target != "/healthz" or line.method not in ("GET", "HEAD"):
        return None
    body = "ok\n"
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return (head if line.method == "HEAD" else head + body).encode("ascii")
