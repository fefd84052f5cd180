"""Calls of the control API (AWS JSON 1.1), of AWS as well as of ``tailrace serve``.

The only place where a request is signed and sent, and a response judged:
:class:`~tailrace.aws.client.Client` gives its calls types,
:class:`~tailrace.aws.control_client.ControlClient` makes them without an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeAlias

from .. import __version__
from ..common.certificate_files import certificate_error_text
from ..common.escaping import one_line
from ..errors import (
    CallRefused,
    ConfigurationError,
    ConnectFailed,
    ControlCertificateRejected,
    ControlError,
    ControlThrottled,
    CredentialsRefused,
    LimitExceeded,
    LinkError,
    NameResolutionFailed,
    ResponseLost,
    TunnelNotFound,
)
from . import signing
from .credentials import Credentials
from .https import HTTPSHost, NoResponse, Response, Stream, https_place

__all__ = ["ControlAPI", "CredentialSource", "Document"]

Document: TypeAlias = dict[str, Any]
CredentialSource: TypeAlias = Callable[[], Credentials]
"""Called, in a thread, before each attempt for credentials that may change. May block."""

_TARGET_PREFIX: Final = "IoTSecuredTunneling"
_PAGE: Final = 100
"""Tunnels for which a page of a list is asked: the most that there may be."""
_REGION: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_OPERATION: Final = re.compile(r"[A-Za-z]{1,64}")

# As the standard retry mode of AWS SDKs: a random part of a time that doubles.
_THROTTLED_SECONDS: Final = 1.0
_FAILED_SECONDS: Final = 0.05
_MOST_SECONDS: Final = 20.0

_OPENS: Final = "OpenTunnel"
"""The operation that is not repeated when its response is lost: a second tunnel would be open."""

_ERRORS: Final[Mapping[str, type[ControlError]]] = {
    "AccessDeniedException": CredentialsRefused,
    "ExpiredTokenException": CredentialsRefused,
    "IncompleteSignatureException": CredentialsRefused,
    "InternalFailure": ControlError,
    "InternalServerError": ControlError,
    "InvalidClientTokenId": CredentialsRefused,
    "InvalidSignatureException": CredentialsRefused,
    "LimitExceededException": LimitExceeded,
    "MissingAuthenticationTokenException": CredentialsRefused,
    "RequestExpired": CredentialsRefused,
    "RequestTimeoutException": ControlError,
    "ResourceNotFoundException": TunnelNotFound,
    "ServiceUnavailable": ControlError,
    "ThrottlingException": ControlThrottled,
    "TooManyRequestsException": ControlThrottled,
    "UnrecognizedClientException": CredentialsRefused,
}
"""Error codes that say more than the status of the response."""


class ControlAPI:
    """Calls operations of one endpoint, in one event loop at a time; calls take turns.

    Args:
        endpoint: an ``https`` URL.
        ca: a file of certificates, or a directory hashed for OpenSSL, to trust in addition to the
            system's.
        timeout: seconds for each of name resolution, TCP, TLS, and request with response.
        attempts: how often a call is made at most, see :meth:`call`.
        environment: where a web proxy is looked up, as for local proxies.

    Raises:
        ConfigurationError: the endpoint is not an https URL of a host, the region is not
            valid, or the CA file cannot be read.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Credentials | CredentialSource,
        ca: Path | None = None,
        *,
        timeout: float = 30.0,
        attempts: int = 3,
        environment: Mapping[str, str],
    ) -> None:
        host, port, self._host_header = https_place(endpoint)
        if not _REGION.fullmatch(region):
            raise ConfigurationError(f"region {region!r} is not the name of a region")
        numbers = isinstance(timeout, int | float) and isinstance(attempts, int)
        if not (numbers and timeout > 0 and attempts >= 1):
            raise ConfigurationError("timeout and attempts have to be numbers of more than 0")
        self._endpoint = endpoint
        self._region = region
        self._credentials = credentials
        self._attempts = attempts
        self._https = HTTPSHost(host, port, _trust(ca), ca, timeout, environment)
        self._turn = asyncio.Lock()

    async def call(self, operation: str, parameters: Mapping[str, Any]) -> Document:
        """Call one operation and return what it returns.

        It is repeated, after a random time that grows, when the service throttles it or fails
        (5xx), and when there is no connection. ``OpenTunnel`` is not when its response is lost.

        Raises:
            CallRefused: the service refused it.
            ControlCertificateRejected: the certificate of the service does not verify.
            ControlError: the service failed, or could not be reached.
            LinkError: a web proxy refused, or its certificate does not verify.
            ConfigurationError: there are no credentials, or the web proxy is none.
        """
        if not _OPERATION.fullmatch(operation):
            raise ConfigurationError(f"{operation!r} is not the name of an operation")
        body = json.dumps(parameters).encode()
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._turn:
                    response = await self._send(operation, body)
                return self._result(operation, response)
            except (ControlError, LinkError) as error:
                lost = isinstance(error, ResponseLost) and operation == _OPENS
                if attempt >= self._attempts or lost or not error.retryable:
                    raise
                base = (
                    _THROTTLED_SECONDS if isinstance(error, ControlThrottled) else _FAILED_SECONDS
                )
            # What is random here is no secret.
            await asyncio.sleep(
                random.random() * min(base * 2 ** min(attempt - 1, 10), _MOST_SECONDS)  # noqa: S311
            )

    async def summaries(
        self, thing: str | None = None, limit: int | None = None
    ) -> AsyncIterator[Document]:
        """Yield summaries of tunnels, newest first, a page at a time.

        Raises:
            ControlError: as :meth:`call`; or the pages do not come to an end.
        """
        parameters: Document = {} if thing is None else {"thingName": thing}
        while limit is None or limit > 0:
            parameters["maxResults"] = _PAGE if limit is None else min(_PAGE, limit)
            page = await self.call("ListTunnels", parameters)
            found = page.get("tunnelSummaries", [])
            if not isinstance(found, list):
                raise ControlError(
                    "", f"ListTunnels at {self._endpoint}: the response has no list of tunnels"
                )
            for summary in found[: parameters["maxResults"]]:
                yield summary
            if limit is not None:
                limit -= len(found)
            token = page.get("nextToken")
            if not token:
                return
            if token == parameters.get("nextToken"):
                raise ControlError("", f"ListTunnels at {self._endpoint}: a page names itself next")
            parameters["nextToken"] = token

    @contextlib.asynccontextmanager
    async def stream(
        self, operation: str, path: str, query: str, silence: float
    ) -> AsyncIterator[Stream]:
        """Send a signed ``GET``; the body has the response, of status 200, as it comes.

        ``silence`` are the seconds in which something has to come; ``operation`` names it all in
        errors.

        Raises:
            ControlError, LinkError, ConfigurationError: as :meth:`call`, also while the body reads
                the stream.
        """
        with self._faults_named(operation):
            credentials = await self._current_credentials()
            request = self._signed("GET", path, query, (), b"", credentials)
            async with self._https.stream(request, silence) as stream:
                if stream.status != HTTPStatus.OK:
                    body = await stream.body()
                    self._result(operation, Response(stream.status, stream.fields, body))
                yield stream

    async def close(self) -> None:
        """Close the connection, if there is one; then another event loop may make calls."""
        await self._https.close()
        if not self._turn.locked():
            self._turn = asyncio.Lock()  # the former belongs to the loop where calls have waited

    async def _send(self, operation: str, body: bytes) -> Response:
        with self._faults_named(operation):
            request = self._request(operation, body, await self._current_credentials())
            return await self._https.request(request, repeatable=operation != _OPENS)

    async def _current_credentials(self) -> Credentials:
        credentials = self._credentials
        if isinstance(credentials, Credentials):
            return credentials
        return await asyncio.to_thread(credentials)

    @contextlib.contextmanager
    def _faults_named(self, operation: str) -> Iterator[None]:
        """Raise what goes wrong on the way as what a call raises."""
        call = f"{operation} at {self._endpoint}"
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise ControlCertificateRejected(
                "", f"{call}: the certificate does not verify: {error.verify_message}"
            ) from None
        except NoResponse as error:
            kind = ResponseLost if error.was_sent else ControlError
            raise kind("", f"{call}: {error}") from None
        except (NameResolutionFailed, ConnectFailed) as error:
            raise ControlError("", f"{call}: {error}") from None

    def _request(self, operation: str, body: bytes, credentials: Credentials) -> bytes:
        """Return a signed call."""
        fields = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", f"{_TARGET_PREFIX}.{operation}"),
        ]
        return self._signed("POST", "/", "", fields, body, credentials)

    def _signed(
        self,
        method: str,
        path: str,
        query: str,
        fields: Sequence[tuple[str, str]],
        body: bytes,
        credentials: Credentials,
    ) -> bytes:
        """Return a signed request."""
        date = signing.timestamp(time.time())
        signed = [*fields, ("host", self._host_header), ("x-amz-date", date)]
        if credentials.session_token is not None:
            signed.append(("x-amz-security-token", credentials.session_token.reveal()))
        authorization = signing.authorization(
            credentials.access_key_id,
            credentials.secret_access_key,
            self._region,
            signing.SIGNING_NAME,
            date,
            signed,
            body,
            method=method,
            path=path,
            query=query,
        )
        all_fields = [
            *signed,
            ("authorization", authorization),
            ("content-length", str(len(body))),
            ("user-agent", f"tailrace/{__version__}"),
        ]
        target = f"{path}?{query}" if query else path
        lines = [
            f"{method} {target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in all_fields),
        ]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body

    def _result(self, operation: str, response: Response) -> Document:
        status = response.status
        try:
            document = json.loads(response.body or b"{}")
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ControlError(
                "", f"{operation} at {self._endpoint}: response {status} without a JSON object"
            )
        if status == HTTPStatus.OK:
            return document
        code = one_line(document.get("__type", status)).rpartition("#")[2]
        message = document.get("message") or document.get("Message") or "no reason given"
        kind: type[ControlError] = ControlError
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = ControlThrottled
        elif status < HTTPStatus.INTERNAL_SERVER_ERROR:
            kind = _ERRORS.get(code, CallRefused)
        raise kind(code, one_line(message))


def _trust(ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        try:
            if ca.is_dir() and any(ca.glob("*.0")):
                context.load_verify_locations(capath=ca)
            else:
                context.load_verify_locations(ca)
        except OSError as error:
            text = certificate_error_text(error)
            raise ConfigurationError(f"CA file {ca}: {text}") from None
    return context
