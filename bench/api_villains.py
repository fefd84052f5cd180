"""Clients of the control API that do their worst, each in a process of its own.

What has no right to anything knows an access key id and no more, as whoever has seen a request of
somebody else. ``lists`` has rights, and costs what rights allow.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tailrace.aws import ControlClient, Credentials
from tailrace.common.secret import Secret
from tailrace.errors import TailraceError

__all__ = ["API_VILLAINS", "WORST"]

_HELD: Final = 300
"""Connections that are held open at once."""
_NAMES: Final = 3900
"""Repeated names in ``SignedHeaders`` of the request that is costly to verify."""
_TUNNELS: Final = 100
_TAGS: Final = 200


def unproven(job: dict[str, str]) -> None:
    """Send requests that are costly to verify, and hold bodies without their last byte."""
    held: list[socket.socket] = []
    costly = _request(job, ";".join(["x-a"] * _NAMES), [("x-a", "1")] * (_NAMES // 2), b"{}")
    body = bytes(1024 * 1024)
    unfinished = _request(job, "host;x-amz-date", [], body)[:-1]
    for turn in itertools.count():
        with contextlib.suppress(OSError):
            link = _connect(job)
            link.settimeout(5)
            link.sendall(costly if turn % 2 else unfinished)
            if turn % 2:
                link.recv(65_536)
                link.close()
            else:
                held.append(link)
        if len(held) > _HELD:
            held.pop(0).close()


def refused(job: dict[str, str]) -> None:
    """Have as many requests refused as can be."""
    request = _request(job, "host;x-amz-date", [], b"{}")
    while True:
        with contextlib.suppress(OSError), _connect(job) as link:
            link.settimeout(5)
            while True:
                link.sendall(request)
                if not link.recv(65_536):
                    break


def silent(job: dict[str, str]) -> None:
    """Open connections and say nothing, or ask for nothing but ``/healthz`` once a second."""
    places = itertools.cycle([_place(job["api"]), _place(job["endpoint"])])
    waiting = selectors.DefaultSelector()
    while True:
        with contextlib.suppress(OSError):
            plain = socket.create_connection(next(places), timeout=5)
            waiting.register(plain, selectors.EVENT_READ, plain)
        for key, _ in waiting.select(0):
            waiting.unregister(key.fileobj)
            key.data.close()
        if len(waiting.get_map()) >= _HELD:
            _ask_for_health(job)


def lists(job: dict[str, str]) -> None:
    """List tunnels with long tags that are never shown, and open and close others."""
    credentials = Credentials(job["key"], Secret(job["secret"]))
    api = f"https://{job['api']}"
    client = ControlClient(api, job["region"], credentials, Path(job["ca_file"]))
    tags = [{"key": f"{n:03}" + "k" * 125, "value": "v" * 256} for n in range(_TAGS)]
    for _ in range(_TUNNELS):
        arn = client.call("OpenTunnel", {})["tunnelArn"]
        for begin in range(0, _TAGS, 50):
            with contextlib.suppress(TailraceError):
                part = tags[begin : begin + 50]
                client.call("TagResource", {"resourceArn": arn, "tags": part})
    while True:
        with contextlib.suppress(TailraceError):
            client.call("ListTunnels", {"maxResults": _TUNNELS})
            tunnel = client.call("OpenTunnel", {})["tunnelId"]
            client.call("CloseTunnel", {"tunnelId": tunnel, "delete": True})


def flood(content: bytes) -> Callable[[dict[str, str]], None]:
    """Return a villain that sends ``content`` to the API on one connection after the other."""

    def play(job: dict[str, str]) -> None:
        while True:
            with contextlib.suppress(OSError), _connect(job) as link:
                link.sendall(content)
                while link.recv(65_536):
                    pass

    return play


_POST: Final = b"POST / HTTP/1.1\r\nHost: x\r\n"

WORST: Final[dict[str, Callable[[dict[str, str]], None]]] = {
    "unproven requests": unproven,
    "refused requests": refused,
    "silent connections": silent,
    "lists with long tags": lists,
}
"""Those that go together in the end."""

API_VILLAINS: Final = WORST | {
    "API, heads": flood((_POST + b"a:b\r\n" * 190 + b"\r\n") * 50),
    "API, long heads": flood(_POST + b"a:b\r\n" * 5000 + b"\r\n"),
    "API, bodies": flood(_POST + b"Content-Length: 1000000\r\n\r\n" + bytes(999_999)),
    "API, chunks": flood(_POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000),
}


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _connect(job: dict[str, str]) -> socket.socket:
    context = ssl.create_default_context(cafile=job["ca_file"])
    plain = socket.create_connection(_place(job["api"]), timeout=5)
    return context.wrap_socket(plain, server_hostname=_place(job["api"])[0])


def _ask_for_health(job: dict[str, str]) -> None:
    with contextlib.suppress(OSError), _connect(job) as link:
        for _ in _seconds(5):
            link.sendall(f"GET /healthz HTTP/1.1\r\nHost: {job['api']}\r\n\r\n".encode())
            if not link.recv(65_536):
                break


def _seconds(count: int) -> Iterator[int]:
    for second in range(count):
        yield second
        time.sleep(1)


def _request(job: dict[str, str], signed: str, more: list[tuple[str, str]], body: bytes) -> bytes:
    """Return a request of a key that is live, with a signature that is none."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    scope = f"{job['key']}/{now[:8]}/{job['region']}/IoTSecuredTunneling/aws4_request"
    fields = [
        ("Host", job["api"]),
        ("Content-Length", str(len(body))),
        ("X-Amz-Date", now),
        ("X-Amz-Target", "IoTSecuredTunneling.ListTunnels"),
        ("Content-Type", "application/x-amz-json-1.1"),
        *more,
        (
            "Authorization",
            f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature={'0' * 64}",
        ),
    ]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"POST / HTTP/1.1\r\n{head}\r\n".encode() + body
