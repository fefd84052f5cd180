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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "AccessRefused",
    "CallRefused",
    "CertificateFault",
    "CertificateRejected",
    "ConfigurationError",
    "ConnectFailed",
    "ControlCertificateRejected",
    "ControlError",
    "ControlThrottled",
    "CredentialsRefused",
    "DecodeError",
    "HandshakeAltered",
    "HandshakeFailed",
    "LimitExceeded",
    "LinkError",
    "ListenError",
    "LocalProtocolError",
    "NameResolutionFailed",
    "NotTunnelingService",
    "NotificationIgnored",
    "NotificationNotStored",
    "OpenFailed",
    "ProtocolError",
    "ProxyRefused",
    "RemoteProtocolError",
    "ResponseLost",
    "ServiceIdMismatch",
    "ServiceUnavailable",
    "TLSFailed",
    "TailraceError",
    "TimedOut",
    "TokenRotated",
    "TunnelClosed",
    "TunnelNotFound",
]


class TailraceError(Exception):
    """Base class of all errors of this package.

    ``setting`` is the setting at fault, by its name in the settings of its room, or "" when
    no single one is. ``advice`` says what to do about it, in the words of the library; it is ""
    where the text says all, and where a command says it in its own.

    Example::

        except tailrace.TailraceError as error:
            print(error, error.advice)
    """

    advice = ""

    def __init__(self, *args: object, setting: str = "") -> None:
        super().__init__(*args)
        self.setting = setting

    def __reduce__(self) -> tuple[Callable[..., TailraceError], tuple[object, ...]]:
        """Let it be copied, and pass between processes, whatever its class is made with."""
        return _restored, (type(self), self.args, self.__dict__)

    def explain(self) -> str:
        """Return what happened and, where there is advice, what to do: for people, in one line.

        Example: ``except tailrace.TailraceError as error: sys.exit(error.explain())``
        """
        return f"{self}. {self.advice[0].upper()}{self.advice[1:]}" if self.advice else str(self)


def _restored(
    kind: type[TailraceError], args: tuple[object, ...], attributes: dict[str, object]
) -> TailraceError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class ConfigurationError(TailraceError):
    """The command line, a configuration file or the environment is wrong.

    Example: ``except tailrace.ConfigurationError as error: raise SystemExit(str(error))``
    """


class ListenError(TailraceError):
    """A local address could not be bound.

    ``errno`` is the system's error number or 0; ``service_id`` and ``port`` are those that a
    local proxy was to listen for.

    Example: ``except tailrace.ListenError as error: print(error.port, error.advice)``
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
    """A connection through the tunnel could not be opened; the text says why.

    Example: ``except tailrace.OpenFailed as error: print(error, error.advice)``
    """


class TunnelClosed(OpenFailed):
    """The tunnel was closed, has expired or has failed: nothing can be opened any more.

    Example: ``except tailrace.TunnelClosed: print("over")``
    """


class TimedOut(TailraceError, TimeoutError):
    """What was waited for has not come in time; the text says what that was.

    Example: ``except tailrace.TimedOut as error: print(error, error.advice)``
    """


class ProtocolError(TailraceError):
    """The tunnel protocol was broken by one of the two sides.

    Example: ``except tailrace.ProtocolError as error: print(error)``
    """


class LocalProtocolError(ProtocolError):
    """The caller asked for something the protocol does not allow in this state.

    Example: ``except tailrace.LocalProtocolError as error: print("my bug:", error)``
    """


class RemoteProtocolError(ProtocolError):
    """The service or the peer sent something the protocol does not allow.

    Example: ``except tailrace.RemoteProtocolError as error: print("the peer:", error)``
    """


class DecodeError(RemoteProtocolError):
    """Bytes from the tunnel are not a valid tunnel message.

    Example: ``except tailrace.DecodeError as error: print("garbage:", error)``
    """


class ServiceIdMismatch(ProtocolError):
    """The service ids of the tunnel, ``service_ids``, differ from the configured ones.

    Example: ``except tailrace.ServiceIdMismatch as error: print(*error.service_ids)``
    """

    def __init__(self, text: str, *, setting: str = "", service_ids: tuple[str, ...] = ()) -> None:
        super().__init__(text, setting=setting)
        self.service_ids = service_ids


class LinkError(TailraceError):
    """The WebSocket link to the service could not be set up or was lost.

    Example: ``except tailrace.LinkError as error: print(error.retryable)``
    """

    retryable = True
    """Whether a later attempt with the same settings may succeed."""
    retryable_once_worked = False
    """Whether it may, although it is not :attr:`retryable`, if a link has worked before."""
    retry_after = 0.0
    """Seconds that the other side asks to wait before the next attempt."""


class NameResolutionFailed(LinkError):
    """The host name of the service could not be resolved.

    Example: ``except tailrace.NameResolutionFailed as error: print(error.advice)``
    """


class ConnectFailed(LinkError):
    """No address of the service accepted a TCP connection in time.

    Example: ``except tailrace.ConnectFailed as error: print(error.advice)``
    """


class ProxyRefused(LinkError):
    """The web proxy did not open a way to the service.

    ``retryable`` differs from one to the next: a proxy that forbids the way, or wants other
    credentials, will say the same again, and may lock the account for it. So does
    ``retryable_once_worked``: one that sends visitors elsewhere may be a network that wants a
    login.

    Example: ``except tailrace.ProxyRefused as error: print("the web proxy:", error)``
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
    """The TLS handshake with the service failed.

    Example: ``except tailrace.TLSFailed as error: print("no TLS:", error)``
    """

    retryable_once_worked = True


class CertificateFault(Enum):
    """Why a certificate does not verify.

    Example: ``if error.fault is tailrace.CertificateFault.OUT_OF_DATE: ...``
    """

    UNTRUSTED = "untrusted"
    WRONG_NAME = "wrong name"
    OUT_OF_DATE = "out of date"


class CertificateRejected(TLSFailed):
    """The service's certificate does not verify.

    Example: ``except tailrace.CertificateRejected as error: print(error.fault.value)``
    """

    retryable = False

    def __init__(self, text: str, *, fault: CertificateFault = CertificateFault.UNTRUSTED) -> None:
        super().__init__(text)
        self.fault = fault


class HandshakeFailed(LinkError):
    """The WebSocket upgrade was not answered, or not by a WebSocket server.

    Example: ``except tailrace.HandshakeFailed as error: print(error.retryable)``
    """


class ServiceUnavailable(HandshakeFailed):
    """The service refused the upgrade for now: status 5xx, 408, 425 or 429.

    Example: ``except tailrace.ServiceUnavailable as error: sleep(error.retry_after)``
    """

    def __init__(self, text: str, *, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class NotTunnelingService(HandshakeFailed):
    """Something else answered the upgrade: a web server, or the login page of a network.

    ``login_page`` is the site that the latter sends visitors to, "" if it does not tell, and
    ``None`` where the answer does not look like one.

    Example: ``except tailrace.NotTunnelingService as error: print(error.advice)``
    """

    retryable = False
    retryable_once_worked = True

    def __init__(self, text: str, *, login_page: str | None = None) -> None:
        super().__init__(text)
        self.login_page = login_page


class HandshakeAltered(HandshakeFailed):
    """The service got another upgrade request than was sent: a proxy in between changed it.

    The attributes are those of :class:`AccessRefused`.

    Example: ``except tailrace.HandshakeAltered as error: print(error.status, error.advice)``
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

    Example: ``except tailrace.AccessRefused as error: print(error.status, error.advice)``
    """

    retryable = False

    def __init__(self, status: int, reason: str, body: str) -> None:
        super().__init__(f'HTTP/1.1 {status} {reason}: "{body}"')
        self.status = status
        self.reason = reason
        self.body = body


class TokenRotated(LinkError):
    """The service closed the link because its access token was replaced by another one.

    Example: ``except tailrace.TokenRotated: token = new_token()``
    """

    retryable = False


class ControlError(TailraceError):
    """The control API could not be reached, or failed to handle a call.

    ``code`` is the AWS error code, such as ``ThrottlingException``, or "" when there was no
    response.

    Example::

        try:
            await client.close(tunnel_id)
        except ControlError as error:
            print(error, error.advice)
    """

    retryable = True
    """Whether the same call may succeed later."""
    advice = "try again later; the text says what failed"
    """What to do, for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code


class ControlThrottled(ControlError):
    """The control API was called too often.

    Example: ``except tailrace.ControlThrottled: await asyncio.sleep(60)``
    """

    advice = "call less often; AWS allows a few calls a second"


class ResponseLost(ControlError):
    """There was no response to a request that the control API may have had.

    Example: ``except tailrace.ResponseLost: tunnels = [each async for each in client.list()]``
    """

    advice = "look whether the call was carried out before you make it again"


class CallRefused(ControlError):
    """The control API refused a call: what it asks for, or who asks.

    Example: ``except tailrace.CallRefused as error: print(error.code, error.advice)``
    """

    retryable = False
    advice = "correct what the text names"


class CredentialsRefused(CallRefused):
    """The control API does not know the access key, or the key may not do this.

    Example: ``except tailrace.CredentialsRefused as error: print(error, error.advice)``
    """

    advice = "check access key, region and clock, and that the key may make this call"


class LimitExceeded(CallRefused):
    """The account, or the access key, has as many tunnels or tags as it may have.

    Example: ``except tailrace.LimitExceeded as error: print(error, error.advice)``
    """

    advice = "close tunnels, or have the limit raised"


class TunnelNotFound(CallRefused):
    """There is no such tunnel, or not any more: records of closed tunnels are deleted.

    Example: ``except tailrace.TunnelNotFound: tunnel_id = None``
    """

    advice = "list the tunnels; the id, the region or the endpoint may be another one"


class ControlCertificateRejected(ControlError):
    """The certificate of the control API does not verify.

    Example: ``except tailrace.ControlCertificateRejected as error: print(error.advice)``
    """

    retryable = False
    advice = "name the CA of the service: the argument ca, or the variable AWS_CA_BUNDLE"


class NotificationIgnored(TailraceError):
    """A notification of a tunnel is not acted upon; the text says why, and holds no token.

    Example: ``except tailrace.NotificationIgnored as error: print("ignored:", error)``
    """

    def __init__(self, text: str, *, expected: bool = False) -> None:
        super().__init__(text)
        self.expected = expected
        """Whether that is as it should be: it was for somebody else, or was acted upon before."""


class NotificationNotStored(TailraceError):
    """A notification of a tunnel could not be stored, and was not acted upon.

    Do not acknowledge it: it is to come again.

    Example: ``except tailrace.NotificationNotStored as error: print(error, error.advice)``
    """
