"""What a program is told to do about an error: in arguments of functions, not in options."""

from __future__ import annotations

import errno
from typing import Final, TypeVar

from ..errors import (
    AccessRefused,
    CertificateRejected,
    ConnectFailed,
    HandshakeAltered,
    ListenError,
    NameResolutionFailed,
    NotTunnelingService,
    OpenFailed,
    ServiceIdMismatch,
    TailraceError,
    TokenRotated,
    TunnelClosed,
)
from ..link.http.login_page import login_words
from ..localproxy.advice import (
    ALTERED_ADVICE,
    SettingNames,
    certificate_advice,
    refusal_advice,
    stranger_advice,
)
from ..localproxy.settings import ProxySettings

__all__ = ["NETWORK_ADVICE", "advised", "with_advice"]

_ARGUMENTS: Final = SettingNames(
    endpoint="endpoint=",
    region="region=",
    authority="ca=",
    kept="a Tunnel has it as client_token, and takes it as client_token=",
)
NETWORK_ADVICE: Final = "Check endpoint= or region=, and the network"

E = TypeVar("E", bound=TailraceError)


def advised(error: E, settings: ProxySettings, service_ids: tuple[str, ...] = ()) -> E:
    """Return ``error`` with the advice that belongs to it, unless it has one.

    ``service_ids`` are those of the tunnel, as far as they are known.
    """
    advice = "" if error.advice else _advice(error, settings, service_ids)
    return with_advice(error, advice) if advice else error


def with_advice(error: E, advice: str) -> E:
    """Return ``error`` with this advice, which a traceback shows, too."""
    error.advice = advice
    error.add_note(advice)
    return error


def _advice(error: TailraceError, settings: ProxySettings, service_ids: tuple[str, ...]) -> str:
    match error:
        case AccessRefused():
            return refusal_advice(error, settings, _ARGUMENTS)
        case TokenRotated():
            return f"Start again with the new {settings.side.value} token"
        case HandshakeAltered():
            return ALTERED_ADVICE
        case NotTunnelingService(login_page=str() as page):
            words = login_words(page)
            return words[0].upper() + words[1:]
        case NotTunnelingService():
            return stranger_advice(str(error), settings, _ARGUMENTS)
        case CertificateRejected():
            advice = certificate_advice(error.fault, _ARGUMENTS)
            return advice[0].upper() + advice[1:]
        case NameResolutionFailed() | ConnectFailed():
            return NETWORK_ADVICE
        case ServiceIdMismatch():
            return f"Give an address or a handler for each of {', '.join(error.service_ids)}"
        case ListenError():
            return _listen_advice(error.errno)
        case TunnelClosed():
            return (
                "Make another Tunnel; if it was closed at the service, with the tokens of a new one"
            )
        case OpenFailed() if service_ids:
            return f"The services of the tunnel are {', '.join(service_ids)}"
        case _:
            return ""


def _listen_advice(number: int) -> str:
    match number:
        case errno.EADDRINUSE:
            return "Another program has the port; port 0 picks a free one"
        case errno.EACCES | errno.EPERM:
            return "Choose a port above 1023, or 0, which picks a free one"
        case _:
            return "Check host and port"
