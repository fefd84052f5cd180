"""What the command says about an error: the C++ command's words, and what to do about it.

Errors come with facts from below; the names of options are added here.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

from ...common.addresses import format_host_port
from ...errors import (
    AccessRefused,
    CertificateFault,
    CertificateRejected,
    ConnectFailed,
    HandshakeAltered,
    LinkError,
    ListenError,
    NameResolutionFailed,
    NotTunnelingService,
    ServiceUnavailable,
    TailraceError,
    TLSFailed,
    TokenRotated,
)
from ...link.http.login_page import login_words
from ...localproxy.settings import ProxySettings
from ...wire import Side

__all__ = ["describe", "explain"]

# The beginnings of the reference's log lines, for scripts that wait for them.
_BEGINNINGS: Final[tuple[tuple[type[LinkError], str], ...]] = (
    (NameResolutionFailed, "Could not resolve DNS hostname of proxy host: "),
    (ConnectFailed, "Could not connect to proxy server: "),
    (TLSFailed, "Could not perform SSL handshake with proxy server: "),
    (ServiceUnavailable, "Proxy server rejected web socket upgrade request: "),
)
_REMEDIES: Final[Mapping[CertificateFault, str]] = {
    CertificateFault.UNTRUSTED: "add the CA that signed it with -c",
    CertificateFault.WRONG_NAME: "check the endpoint's name",
    CertificateFault.OUT_OF_DATE: "check this machine's clock",
}
_ALTERED_HINT: Final = (
    "A proxy in between has to pass WebSocket upgrades on as they are: HTTP/1.1, Upgrade, "
    "Connection, Sec-WebSocket-*, access-token and the path (docs/intermediaries.md)"
)
_HINTS: Final[Mapping[str, str]] = {
    "bind_address": "check -b",
    "connect_timeout": "--connect-timeout allows more time",
    "destinations": "give one with -d or --config-dir",
    "dialect": "leave out -y V1",
    "loop": "pip install uvloop, or use --loop auto",
    "path": "choose another path with -s",
    "state_dir": "check --state-dir",
}
"""Setting at fault -> what to do about it."""


def describe(error: LinkError) -> str:
    """Return the log line for a link that failed and will be tried again."""
    beginning = next((text for kind, text in _BEGINNINGS if isinstance(error, kind)), "")
    return f"{beginning}{_with_remedy(error)}"


def explain(error: TailraceError, settings: ProxySettings) -> str:
    """Return the last line of a command that ends with ``error``: what happened, what to do."""
    match error:
        case AccessRefused():
            return f"{error}. {_refusal_hint(error, settings)}"
        case TokenRotated():
            return f"{error}; start again with the new {settings.side.value} token"
        case HandshakeAltered():
            return f"{error}. {_ALTERED_HINT}"
        case NotTunnelingService(login_page=str()):
            hint = _endpoint_hint(settings)
            return f"{_with_remedy(error)}, or {hint[0].lower()}{hint[1:]}"
        case NotTunnelingService():
            return f"{error}. {_endpoint_hint(settings)}, and that this network wants no login"
        case LinkError():
            return _gave_up(error, settings) if error.retryable else _with_remedy(error)
        case ListenError(setting="services"):
            hint = _listen_hint(error)
        case _:
            hint = _HINTS.get(error.setting, "")
    return f"{error}; {hint}" if hint else str(error)


def _with_remedy(error: LinkError) -> str:
    match error:
        case CertificateRejected():
            return f"{error}; {_REMEDIES[error.fault]} (-k skips the check, for testing only)"
        case NotTunnelingService(login_page=str() as page):
            return f"{error}; {login_words(page)}"
        case _:
            hint = _HINTS.get(error.setting, "")
            return f"{error}; {hint}" if hint else str(error)


def _gave_up(error: LinkError, settings: ProxySettings) -> str:
    """Say how many tries there were and what to check."""
    tries = settings.connect_retry_count + 1
    text = f"{describe(error)}; gave up after {tries} {'try' if tries == 1 else 'tries'}"
    if isinstance(error, NameResolutionFailed | ConnectFailed):
        text += ": check the endpoint (-e, -r) and the network"
    return text


def _listen_hint(error: ListenError) -> str:
    option = f"-s {error.service_id}={error.port}" if error.service_id else f"-s {error.port}"
    match error.errno:
        case errno.EADDRINUSE:
            return f"another process has the port, choose another one for {option}"
        case errno.EACCES | errno.EPERM:
            return f"choose a port above 1023 for {option}"
        case _:
            return f"check -b and {option}"


def _refusal_hint(error: AccessRefused, settings: ProxySettings) -> str:
    """Return why an upgrade may have been refused and what helps.

    The texts looked for are those AWS and ``tailrace serve`` answer with.
    """
    body = error.body.lower()
    side = settings.side
    other = Side.DESTINATION if side is Side.SOURCE else Side.SOURCE
    rotate = (
        "aws iotsecuretunneling rotate-tunnel-access-token --tunnel-id TUNNEL_ID "
        f"--client-mode {side.name}"
    )
    if "previously used" in body or "client token" in body:
        return (
            "An access token works only with the client token of its first use; get a new one "
            f"with: {rotate} (--state-dir keeps the client token over a restart)"
        )
    if "closed" in body or "expired" in body:
        return "The tunnel has ended and cannot be reopened; open a new one"
    if "mode" in body:
        return f"This looks like the token of the {other.value}; give the {side.value} token"
    if error.status in (400, 401, 403):
        return (
            f"Check that this is the {side.value} token, whole and unused, that the tunnel is "
            f"open, and that it was opened in the region of {settings.host}; "
            f"for a new token: {rotate}"
        )
    return _endpoint_hint(settings)


def _endpoint_hint(settings: ProxySettings) -> str:
    place = format_host_port(settings.host, settings.port)
    return f"Check that {place} is a tunneling data endpoint (-e, -r)"
