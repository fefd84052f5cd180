"""Join a service with an invitation: trust first, then the code.

Nothing is known of the service but its address and the digest of its authority's public key. So
the certificates of the authority are asked for over a connection that proves nothing, and thrown
away but for the one with that key. A second connection is verified by that certificate alone, its
host name and dates included, and only there the code and the secret key are sent.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..common.enrolment import AUTHORITY_PATH, JOIN_PATH, MAX_AUTHORITY, Role
from ..common.escaping import LONGEST_LINE, cut, one_line
from ..common.secret import Secret
from ..errors import (
    ConfigurationError,
    ConnectFailed,
    ControlCertificateRejected,
    ControlError,
    ControlThrottled,
    CredentialsRefused,
    LinkError,
    NameResolutionFailed,
)
from ..link.tls.pin import certificates_of, pin_of
from .credentials import Credentials
from .https import HTTPSHost, NoResponse, Response, https_place
from .joined import JoinedService

__all__ = ["Admission", "join"]

_ATTEMPTS: Final = 5
_FIRST_SECONDS: Final = 0.5
_OUT_OF_DATE: Final = {9, 10}
_WRONG_NAME: Final = {62, 64}
"""What X509_verify_cert reports (OpenSSL, x509_vfy.h)."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a service has answered; without the file that is yet to be written."""

    service: JoinedService
    authorities: bytes
    """Certificates in PEM."""


async def join(
    url: str,
    pins: Collection[str],
    code: Secret,
    secret_key: Secret,
    *,
    environment: Mapping[str, str],
    timeout: float = 30.0,
    tell: Callable[[str], None],
) -> Admission:
    """Use an invitation up; return what it gives.

    It is tried again when the service cannot be reached, does not answer or is busy: with the same
    ``secret_key``, a code that was used up is good again.

    Args:
        url: the control API, ``https://HOST:PORT``.
        pins: ``sha256:HEX`` of public keys, of which the authority must have one.
        timeout: seconds for each of name resolution, TCP, TLS, and request with response.
        environment: where a web proxy is looked up.
        tell: called with why it is tried again.

    Raises:
        ConfigurationError: the URL is none, or the web proxy is none.
        ControlCertificateRejected: this is not the service; it was told nothing.
        CredentialsRefused: the code is not good.
        ControlError: the service failed, or cannot be reached.
        LinkError: a web proxy refused, or its certificate does not verify.
    """
    joining = _Joining(url, pins, timeout, environment)
    attempt = 0
    while True:
        attempt += 1
        try:
            return await joining.once(code, secret_key)
        except (ControlError, LinkError) as error:
            if attempt >= _ATTEMPTS or not error.retryable:
                raise
            tell(f"{error}; trying again")
        # What is random here is no secret.
        await asyncio.sleep((0.5 + random.random() / 2) * _FIRST_SECONDS * 2**attempt)  # noqa: S311


class _Joining:
    def __init__(
        self, url: str, pins: Collection[str], timeout: float, environment: Mapping[str, str]
    ) -> None:
        self._url = url.rstrip("/")
        self._host, self._port, self._host_header = https_place(url)
        self._pins = pins
        self._timeout = timeout
        self._environment = environment

    async def once(self, code: Secret, secret_key: Secret) -> Admission:
        context = self._trusting(await self._pinned())
        body = json.dumps({"code": code.reveal(), "secretKey": secret_key.reveal()}).encode()
        response = await self._ask("POST", JOIN_PATH, context, body)
        document = self._document(response)
        if response.status != HTTPStatus.OK:
            raise self._refusal(response.status, document)
        return self._admission(document, secret_key)

    async def _pinned(self) -> bytes:
        """Return the certificate with a pinned key, in DER."""
        response = await self._ask("GET", AUTHORITY_PATH, _trusting_nothing())
        if response.status != HTTPStatus.OK or len(response.body) > MAX_AUTHORITY:
            kind = ControlError if response.status >= 500 else ControlCertificateRejected
            raise kind(
                "",
                f"{self._url} answers {response.status} and no certificate: it is no tailrace "
                "serve, or an old one",
            )
        found = {}
        try:
            for der in certificates_of(response.body.decode("ascii", "replace")):
                found[pin_of(der)] = der
        except ValueError:
            found.clear()
        for pin in self._pins:
            if pin in found:
                return found[pin]
        has = cut(f"has {', '.join(found)}", LONGEST_LINE)
        shown = has if found else "shows no certificate"
        raise ControlCertificateRejected(
            "",
            f"the authority of {self._url} {shown}, and not the pinned key: the invitation is of "
            "another service, or somebody is in between. The code was not sent",
        )

    def _trusting(self, anchor: bytes) -> ssl.SSLContext:
        """Return a context that trusts one certificate in DER, be it a root or not."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(cadata=anchor)
        except ssl.SSLError:
            # Anybody can put something around the key, which is public.
            raise ControlCertificateRejected(
                "",
                f"the authority of {self._url} shows the pinned key in what is no certificate: "
                "somebody may be in between. The code was not sent",
            ) from None
        return context

    async def _ask(
        self, method: str, path: str, context: ssl.SSLContext, body: bytes = b""
    ) -> Response:
        """Send one request over a connection of its own."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"host: {self._host_header}",
            f"user-agent: tailrace/{__version__}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
        ]
        request = "\r\n".join([*lines, "", ""]).encode("ascii") + body
        https = HTTPSHost(self._host, self._port, context, None, self._timeout, self._environment)
        try:
            return await https.request(request, repeatable=False)
        except ssl.SSLCertVerificationError as error:
            raise ControlCertificateRejected("", self._distrust(error)) from None
        except (NoResponse, NameResolutionFailed, ConnectFailed) as error:
            raise ControlError("", f"{self._url}: {error}") from None
        finally:
            await https.close()

    def _distrust(self, error: ssl.SSLCertVerificationError) -> str:
        text = f"the certificate of {self._url} does not verify: {error.verify_message}"
        if error.verify_code in _OUT_OF_DATE:
            now = datetime.fromtimestamp(time.time(), UTC)
            text += f"; is the clock of this machine right? It says {now:%Y-%m-%d %H:%M} UTC"
        elif error.verify_code in _WRONG_NAME:
            text += f"; the service needs --host-name {self._host}"
        return f"{text}. The code was not sent"

    def _document(self, response: Response) -> dict[str, Any]:
        try:
            document = json.loads(response.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ControlError("", f"{self._url} answers {response.status} without a JSON object")
        return document

    def _refusal(self, status: int, document: dict[str, Any]) -> ControlError:
        code = one_line(document.get("__type", status))
        message = one_line(document.get("message", "no reason given"))
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return ControlThrottled(code, message)
        if status == HTTPStatus.FORBIDDEN:
            return CredentialsRefused(
                "", f"{self._url}: {message}; ask for another: tailrace invite"
            )
        kind = ControlError if status >= HTTPStatus.INTERNAL_SERVER_ERROR else CredentialsRefused
        return kind(code, f"{self._url}: {message}")

    def _admission(self, document: dict[str, Any], secret_key: Secret) -> Admission:
        try:
            authorities = document["certificateAuthorities"].encode("ascii")
            if not certificates_of(authorities.decode()) or len(authorities) > MAX_AUTHORITY:
                raise ValueError
            service = JoinedService(
                Role(document["role"]),
                document["name"],
                self._url,
                document["dataEndpoint"],
                document["region"],
                Path(),
                Credentials(document["accessKeyId"] + "", secret_key),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ConfigurationError):
            raise ControlError("", f"{self._url}: the answer makes no sense") from None
        return Admission(service, authorities)


def _trusting_nothing() -> ssl.SSLContext:
    """Return the context of a connection to which nothing is told, and of which nothing is kept."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
