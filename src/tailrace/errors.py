"""The public error tree.

Everything tailrace raises on purpose derives from :class:`TailraceError`. Any
other exception that escapes a public function is a bug; tests and fuzzers treat
it as one.

Three rules hold for every class below:

* our own fault and the peer's fault are different errors
  (:class:`LocalProtocolError`, :class:`RemoteProtocolError`);
* no message ever contains an access token, a client token or a key;
* an error carries facts as attributes and knows no command: names of command-line options
  and exit codes are added by :mod:`tailrace.cli`.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "AccessRefused",
    "CallRefused",
    "CertificateFault",
    "CertificateRejected",
    "ConfigurationError",
    "ConnectFailed",
    "ControlCertificateRejected",
    "ControlError",
    "DecodeError",
    "HandshakeAltered",
    "HandshakeFailed",
    "LinkError",
    "ListenError",
    "LocalProtocolError",
    "NameResolutionFailed",
    "NotTunnelingService",
    "OpenFailed",
    "ProtocolError",
    "ProxyRefused",
    "RemoteProtocolError",
    "ServiceIdMismatch",
    "ServiceUnavailable",
    "TLSFailed",
    "TailraceError",
    "TokenRotated",
]


class TailraceError(Exception):
    """Base class of all errors of this package.

    ``setting`` is the setting at fault, by its name in the settings of its room, or "" when
    no single one is.
    """

    def __init__(self, *args: object, setting: str = "") -> None:
        super().__init__(*args)
        self.setting = setting


class ConfigurationError(TailraceError):
    """The command line, a configuration file or the environment is wrong."""


class ListenError(TailraceError):
    """A local address could not be bound.

    ``errno`` is the system's error number or 0; ``service_id`` and ``port`` are those that a
    local proxy was to listen for.
    """

    def __init__(
        self,
        text: str,
        *,
        setting: str = "",
        service_id: str = "",
        port: int = 0,
        errno: int = 0,
    ) -> None:
        super().__init__(text, setting=setting)
        self.service_id = service_id
        self.port = port
        self.errno = errno


class OpenFailed(TailraceError):
    """A connection through the tunnel could not be opened; the text says why."""


class ProtocolError(TailraceError):
    """The tunnel protocol was broken by one of the two sides."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something the protocol does not allow in this state."""


class RemoteProtocolError(ProtocolError):
    """The service or the peer sent something the protocol does not allow."""


class DecodeError(RemoteProtocolError):
    """Bytes from the tunnel are not a valid tunnel message."""


class ServiceIdMismatch(ProtocolError):
    """The service ids of the tunnel, ``service_ids``, differ from the configured ones."""

    def __init__(self, text: str, *, setting: str = "", service_ids: tuple[str, ...] = ()) -> None:
        super().__init__(text, setting=setting)
        self.service_ids = service_ids


class LinkError(TailraceError):
    """The WebSocket link to the service could not be set up or was lost."""

    retryable = True
    """Whether a later attempt with the same settings may succeed."""
    retryable_once_worked = False
    """Whether it may, although it is not :attr:`retryable`, if a link has worked before."""
    retry_after = 0.0
    """Seconds that the other side asks to wait before the next attempt."""


class NameResolutionFailed(LinkError):
    """The host name of the service could not be resolved."""


class ConnectFailed(LinkError):
    """No address of the service accepted a TCP connection in time."""


class ProxyRefused(LinkError):
    """The web proxy did not open a way to the service.

    ``retryable`` differs from one to the next: a proxy that forbids the way, or wants other
    credentials, will say the same again, and may lock the account for it. So does
    ``retryable_once_worked``: one that sends visitors elsewhere may be a network that wants a
    login.
    """

    def __init__(
        self,
        text: str,
        *,
        retryable: bool = True,
        retryable_once_worked: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(text)
        self.retryable = retryable
        self.retryable_once_worked = retryable_once_worked
        self.retry_after = retry_after


class TLSFailed(LinkError):
    """The TLS handshake with the service failed."""

    retryable_once_worked = True


class CertificateFault(Enum):
    """Why a certificate does not verify."""

    UNTRUSTED = "untrusted"
    WRONG_NAME = "wrong name"
    OUT_OF_DATE = "out of date"


class CertificateRejected(TLSFailed):
    """The service's certificate does not verify."""

    retryable = False

    def __init__(self, text: str, *, fault: CertificateFault = CertificateFault.UNTRUSTED) -> None:
        super().__init__(text)
        self.fault = fault


class HandshakeFailed(LinkError):
    """The WebSocket upgrade was not answered, or not by a WebSocket server."""


class ServiceUnavailable(HandshakeFailed):
    """The service refused the upgrade for now: status 5xx, 408, 425 or 429."""

    def __init__(self, text: str, *, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class NotTunnelingService(HandshakeFailed):
    """Something else answered the upgrade: a web server, or the login page of a network.

    ``login_page`` is the site that the latter sends visitors to, "" if it does not tell, and
    ``None`` where the answer does not look like one.
    """

    retryable = False
    retryable_once_worked = True

    def __init__(self, text: str, *, login_page: str | None = None) -> None:
        super().__init__(text)
        self.login_page = login_page


class HandshakeAltered(HandshakeFailed):
    """The service got another upgrade request than was sent: a proxy in between changed it.

    The attributes are those of :class:`AccessRefused`.
    """

    retryable = False
    retryable_once_worked = True

    def __init__(self, text: str, status: int, reason: str, body: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.body = body


class AccessRefused(HandshakeFailed):
    """The service refused the upgrade for good, with a 4xx status that names no passing reason.

    ``status`` is the HTTP status, ``reason`` its phrase, ``body`` the response's text (trimmed).
    """

    retryable = False

    def __init__(self, status: int, reason: str, body: str) -> None:
        super().__init__(f'HTTP/1.1 {status} {reason}: "{body}"')
        self.status = status
        self.reason = reason
        self.body = body


class TokenRotated(LinkError):
    """The service closed the link because its access token was replaced by another one."""

    retryable = False


class ControlError(TailraceError):
    """The control API could not be reached, or failed to handle a call.

    ``code`` is the AWS error code, such as ``ThrottlingException``, or "" when there was no
    response.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code


class CallRefused(ControlError):
    """The control API refused a call: what it asks for, or who asks."""


class ControlCertificateRejected(ControlError):
    """The certificate of the control API does not verify."""
