"""A client of the control API (AWS JSON 1.1), for AWS as well as for ``tailrace serve``."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from ..common.addresses import format_host, format_host_port
from ..common.certificate_files import certificate_error_text
from ..errors import CallRefused, ConfigurationError, ControlCertificateRejected, ControlError
from . import signing as sigv4
from .credentials import Credentials

__all__ = ["ControlClient", "Dial", "dial_directly"]

_TARGET_PREFIX: Final = "IoTSecuredTunneling"
_MAX_ANSWER: Final = 16 * 1024 * 1024
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_REGION: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_SERVER_FAULTS: Final = frozenset(
    {"InternalFailure", "InternalServerError", "ServiceUnavailable", "ThrottlingException"}
)
"""Error codes that say nothing against the call; another attempt may succeed."""


Dial: TypeAlias = Callable[[str, int, float], AbstractContextManager[socket.socket]]
"""Connects to a host and port; seconds that name resolution, TCP and so on may take each."""


def dial_directly(host: str, port: int, timeout: float) -> socket.socket:
    """Return a connected socket.

    Raises:
        OSError, UnicodeError: there is none.
    """
    sock = socket.create_connection((host, port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class ControlClient:
    """Calls operations of one endpoint, with one connection for each call.

    ``endpoint`` is an ``https`` URL; ``ca_file`` is trusted in addition to the system's
    certificates; ``timeout`` is in seconds; ``dial`` may lead through a web proxy.

    Raises:
        ConfigurationError: the endpoint is not an https URL of a host, the region is not
            valid, or the CA file cannot be read.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Credentials,
        ca_file: Path | None = None,
        timeout: float = 30.0,
        dial: Dial = dial_directly,
    ) -> None:
        self._host, self._port, self._host_header = _place(endpoint)
        if not _REGION.fullmatch(region):
            raise ConfigurationError(f"region {region!r} is not the name of a region")
        self._endpoint = endpoint
        self._region = region
        self._credentials = credentials
        self._timeout = timeout
        self._dial = dial
        self._context = ssl.create_default_context()
        if ca_file is not None:
            try:
                self._context.load_verify_locations(ca_file)
            except OSError as error:
                text = certificate_error_text(error)
                raise ConfigurationError(f"CA file {ca_file}: {text}") from None

    def call(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Call one operation and return what it returns.

        Raises:
            CallRefused: the service refused it.
            ControlCertificateRejected: the certificate of the service does not verify.
            ControlError: the service failed, or could not be reached.
            TailraceError: whatever ``dial`` raises.
        """
        body = json.dumps(parameters).encode()
        try:
            status, content = self._exchange(self._headers(operation, body), body)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self._failure(operation, error) from None
        return self._result(operation, status, content)

    def _exchange(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Send a request and return status and content of the response."""
        connection = http.client.HTTPConnection(self._host, self._port)
        with self._dial(self._host, self._port, self._timeout) as sock:
            sock.settimeout(self._timeout)
            connection.sock = self._context.wrap_socket(sock, server_hostname=self._host)
            try:
                connection.request("POST", "/", body, headers)
                response = connection.getresponse()
                content = response.read(_MAX_ANSWER)
                if response.length:
                    raise http.client.IncompleteRead(content, response.length)
            finally:
                connection.close()
        return response.status, content

    def _failure(self, operation: str, error: Exception) -> ControlError:
        call = f"{operation} at {self._endpoint}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return ControlCertificateRejected(
                "", f"{call}: the certificate does not verify: {error.verify_message}"
            )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ControlError("", f"{call}: {reason}")

    def _headers(self, operation: str, body: bytes) -> dict[str, str]:
        date = sigv4.timestamp(time.time())
        headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("host", self._host_header),
            ("x-amz-date", date),
            ("x-amz-target", f"{_TARGET_PREFIX}.{operation}"),
        ]
        credentials = self._credentials
        if credentials.session_token is not None:
            headers.append(("x-amz-security-token", credentials.session_token.reveal()))
        signed = sigv4.authorization(
            credentials.access_key_id,
            credentials.secret_access_key,
            self._region,
            sigv4.SIGNING_NAME,
            date,
            headers,
            body,
        )
        return {**dict(headers), "authorization": signed}

    def _result(self, operation: str, status: int, content: bytes) -> dict[str, Any]:
        try:
            document = json.loads(content or b"{}")
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ControlError(
                "", f"{operation} at {self._endpoint}: response {status} without a JSON object"
            )
        if status != http.client.OK:
            code = str(document.get("__type", status)).rpartition("#")[2]
            message = document.get("message") or document.get("Message") or "no reason given"
            is_fault = code in _SERVER_FAULTS or status >= http.client.INTERNAL_SERVER_ERROR
            kind = ControlError if is_fault else CallRefused
            raise kind(code, " ".join(str(message).split()))
        return document


def _place(endpoint: str) -> tuple[str, int, str]:
    """Return host, port and ``Host`` header of an endpoint."""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    else:
        if parts.scheme != "https" or parts.path not in ("", "/") or parts.query or "@" in endpoint:
            host = None
    if not host or not _HOST.fullmatch(host) or port == 0 or not endpoint.isprintable():
        shown = endpoint.rpartition("@")[2]  # what stands before it may be a password
        raise ConfigurationError(f"endpoint {shown!r} is not https://HOST or https://HOST:PORT")
    header = format_host_port(host, port) if port else format_host(host)
    return host, port or http.client.HTTPS_PORT, header
