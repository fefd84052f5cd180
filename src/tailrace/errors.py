"""The public error tree.

Everything tailrace raises on purpose derives from :class:`TailraceError`. Any
other exception that escapes a public function is a bug; tests and fuzzers treat
it as one.

Two rules hold for every class below:

* our own fault and the peer's fault are different errors
  (:class:`LocalProtocolError`, :class:`RemoteProtocolError`);
* no message ever contains an access token, a client token or a key.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "AccessRefused",
    "ConfigurationError",
    "ConnectFailed",
    "DecodeError",
    "ExitCode",
    "HandshakeFailed",
    "LinkError",
    "ListenError",
    "LocalProtocolError",
    "NameResolutionFailed",
    "ProtocolError",
    "ProxyRefused",
    "RemoteProtocolError",
    "ServiceIdMismatch",
    "ServiceUnavailable",
    "TLSFailed",
    "TailraceError",
]


class ExitCode(IntEnum):
    """Exit status of the commands; the same table stands in ``docs/exit-codes.md``."""

    OK = 0
    """Ended as asked: tunnel closed or expired, SIGTERM, SIGINT."""
    USAGE = 1
    """Wrong command line, configuration file or environment."""
    TOKEN_REFUSED = 3
    """The service refused the access token or the client token."""
    NETWORK = 4
    """The service could not be reached within the allowed number of tries."""
    LISTEN = 5
    """A local port or socket path could not be bound."""
    TLS = 6
    """The service's certificate could not be verified."""
    PROTOCOL = 7
    """The service or the peer broke the protocol, or the service ids do not match."""


class TailraceError(Exception):
    """Base class of all errors of this package."""

    exit_code = ExitCode.PROTOCOL


class ConfigurationError(TailraceError):
    """The command line, a configuration file or the environment is wrong."""

    exit_code = ExitCode.USAGE


class ListenError(TailraceError):
    """A local address could not be bound."""

    exit_code = ExitCode.LISTEN


class ProtocolError(TailraceError):
    """The tunnel protocol was broken by one of the two sides."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something the protocol does not allow in this state."""


class RemoteProtocolError(ProtocolError):
    """The service or the peer sent something the protocol does not allow."""


class DecodeError(RemoteProtocolError):
    """Bytes from the tunnel are not a valid tunnel message."""


class ServiceIdMismatch(ProtocolError):
    """The service ids of the tunnel differ from the configured ones."""


class LinkError(TailraceError):
    """The WebSocket link to the service could not be set up or was lost."""

    exit_code = ExitCode.NETWORK
    retryable = True
    """Whether a later attempt with the same settings may succeed."""


class NameResolutionFailed(LinkError):
    """The host name of the service could not be resolved."""


class ConnectFailed(LinkError):
    """No address of the service accepted a TCP connection in time."""


class ProxyRefused(LinkError):
    """The web proxy did not open a way to the service.

    ``retryable`` differs from one to the next: a proxy that forbids the way, or wants other
    credentials, will say the same again, and may lock the account for it.
    """

    def __init__(self, text: str, *, retryable: bool = True) -> None:
        super().__init__(text)
        self.retryable = retryable


class TLSFailed(LinkError):
    """The TLS handshake failed or the certificate could not be verified."""

    exit_code = ExitCode.TLS


class HandshakeFailed(LinkError):
    """The WebSocket upgrade was not answered, or not by a WebSocket server."""


class ServiceUnavailable(HandshakeFailed):
    """The service answered the upgrade with a 5xx status."""


class AccessRefused(HandshakeFailed):
    """The service refused the upgrade for good (any status but 101 and 5xx).

    ``status`` is the HTTP status, ``reason`` its phrase, ``body`` the answer's text
    (trimmed), ``advice`` what to do about it.
    """

    exit_code = ExitCode.TOKEN_REFUSED
    retryable = False

    def __init__(self, status: int, reason: str, body: str, advice: str = "") -> None:
        text = f'HTTP/1.1 {status} {reason}: "{body}"'
        super().__init__(f"{text}. {advice}" if advice else text)
        self.status = status
        self.reason = reason
        self.body = body
        self.advice = advice
