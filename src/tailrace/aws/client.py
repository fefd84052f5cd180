"""A client of the control API (AWS JSON 1.1), for AWS as well as for ``tailrace serve``."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ..errors import ConfigurationError, ExitCode, TailraceError
from . import sigv4
from .credentials import Credentials

__all__ = ["SIGNING_NAME", "ControlClient", "ControlError"]

SIGNING_NAME: Final = "IoTSecuredTunneling"
_TARGET_PREFIX: Final = "IoTSecuredTunneling"
_MAX_ANSWER: Final = 16 * 1024 * 1024


class ControlError(TailraceError):
    """The control API refused a call, or could not be reached.

    ``code`` is the AWS error code, such as ``ResourceNotFoundException``, or "" when there
    was no answer.
    """

    exit_code = ExitCode.NETWORK

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code


class ControlClient:
    """Calls operations of one endpoint; one connection for each call.

    ``endpoint`` is an ``https`` URL; ``ca_file`` is trusted besides the system's
    certificates; ``timeout`` is in seconds.

    Raises:
        ConfigurationError: the endpoint is not an https URL, or the CA file cannot be read.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Credentials,
        ca_file: Path | None = None,
        timeout: float = 30.0,
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigurationError(f"endpoint {endpoint!r} is not an https:// URL")
        self._endpoint = endpoint
        self._host = parts.hostname
        self._netloc = parts.netloc
        self._port = parts.port or http.client.HTTPS_PORT
        self._region = region
        self._credentials = credentials
        self._timeout = timeout
        self._context = ssl.create_default_context()
        if ca_file is not None:
            try:
                self._context.load_verify_locations(ca_file)
            except OSError as error:
                raise ConfigurationError(f"CA file {ca_file}: {error.strerror or error}") from None

    def call(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Call one operation and return its answer.

        Raises:
            ControlError: the service refused it or could not be reached.
        """
        body = json.dumps(parameters).encode()
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout, context=self._context
        )
        try:
            connection.request("POST", "/", body, self._headers(operation, body))
            response = connection.getresponse()
            content = response.read(_MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise ControlError("", f"{operation} at {self._endpoint}: {error}") from None
        finally:
            connection.close()
        return self._answer(response.status, content)

    def _headers(self, operation: str, body: bytes) -> dict[str, str]:
        date = sigv4.timestamp(time.time())
        headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("host", self._netloc),
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
            SIGNING_NAME,
            date,
            headers,
            body,
        )
        return {**dict(headers), "authorization": signed}

    def _answer(self, status: int, content: bytes) -> dict[str, Any]:
        try:
            document = json.loads(content or b"{}")
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ControlError("", f"{self._endpoint} answered {status} without a JSON object")
        if status != http.client.OK:
            code = str(document.get("__type", status)).rpartition("#")[2]
            message = document.get("message") or document.get("Message") or "no reason given"
            raise ControlError(code, str(message))
        return document
