"""Verify AWS Signature Version 4, given in the Authorization header.

Source: AWS Identity and Access Management user guide, "Create a signed AWS API
request". Pure: the request, the time and a way to look up secrets in, the access
key id of the signer out.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ...aws.sigv4 import ALGORITHM, canonical_request, signature, timestamp
from ...secret import Secret
from .errors import ApiError, ErrorType

__all__ = ["MAX_SKEW_SECONDS", "SignedRequest", "Verifier"]

MAX_SKEW_SECONDS: Final = 300
"""How far the clock of a client may be off."""

_AUTHORIZATION: Final = re.compile(
    ALGORITHM + r"\s+Credential=(?P<credential>[^,\s]+)\s*,\s*"
    r"SignedHeaders=(?P<signed_headers>[^,\s]+)\s*,\s*Signature=(?P<signature>[0-9a-f]{64})"
)
_DATE: Final = re.compile(r"\d{8}T\d{6}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as it was sent: header names in lower case, path and query still quoted."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return the values of all header fields called ``name``."""
        return [value for field, value in self.headers if field == name]


@dataclass(frozen=True, slots=True)
class _Authorization:
    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


class Verifier:
    """Checks signatures for one region and service name."""

    def __init__(
        self, region: str, service: str, secret_of: Callable[[str], Secret | None]
    ) -> None:
        self._region = region
        self._service = service
        self._secret_of = secret_of

    def verify(self, request: SignedRequest, now: float) -> str:
        """Return the id of the access key that signed ``request``.

        Raises:
            ApiError: the request is not signed, not by a known key, not now, or was
                changed after it was signed.
        """
        authorization = _read_authorization(request)
        self._check_scope(authorization)
        date = _check_date(request, authorization, now)
        _check_signed_headers(request, authorization)
        secret = self._secret_of(authorization.access_key_id)
        if secret is None or request.values("x-amz-security-token"):
            raise ApiError(
                ErrorType.UNRECOGNIZED_CLIENT,
                "The security token included in the request is invalid.",
            )
        body_hash = hashlib.sha256(request.body).hexdigest()
        claimed = request.values("x-amz-content-sha256")
        expected = _signature(request, authorization, date, body_hash, secret)
        if not hmac.compare_digest(expected, authorization.signature) or claimed not in (
            [],
            [body_hash],
        ):
            raise ApiError(
                ErrorType.INVALID_SIGNATURE,
                "The request signature we calculated does not match the signature you provided. "
                "Check your AWS Secret Access Key and signing method.",
            )
        return authorization.access_key_id

    def _check_scope(self, authorization: _Authorization) -> None:
        if authorization.region != self._region:
            raise ApiError(
                ErrorType.INVALID_SIGNATURE,
                f"Credential should be scoped to a valid region, not "
                f"'{authorization.region}': this service is '{self._region}'.",
            )
        if authorization.service != self._service:
            raise ApiError(
                ErrorType.INVALID_SIGNATURE,
                f"Credential should be scoped to correct service: '{self._service}'.",
            )


def _read_authorization(request: SignedRequest) -> _Authorization:
    fields = request.values("authorization")
    if not fields:
        raise ApiError(ErrorType.MISSING_AUTHENTICATION, "Missing Authentication Token")
    parsed = _AUTHORIZATION.fullmatch(fields[0].strip()) if len(fields) == 1 else None
    scope = parsed["credential"].rsplit("/", 4) if parsed else []
    if parsed is None or len(scope) != 5 or scope[4] != "aws4_request":
        raise ApiError(
            ErrorType.INCOMPLETE_SIGNATURE,
            "The Authorization header must hold Credential, SignedHeaders and Signature "
            f"of {ALGORITHM}.",
        )
    names = tuple(parsed["signed_headers"].split(";"))
    return _Authorization(scope[0], scope[1], scope[2], scope[3], names, parsed["signature"])


def _check_date(request: SignedRequest, authorization: _Authorization, now: float) -> str:
    dates = request.values("x-amz-date")
    if len(dates) != 1 or not _DATE.fullmatch(dates[0]):
        raise ApiError(
            ErrorType.INCOMPLETE_SIGNATURE, "The header X-Amz-Date must hold a date, once."
        )
    try:
        sent = datetime.strptime(dates[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ApiError(
            ErrorType.INCOMPLETE_SIGNATURE, "The header X-Amz-Date is not a date."
        ) from None
    if dates[0][:8] != authorization.date:
        raise ApiError(
            ErrorType.INVALID_SIGNATURE, "Date in Credential scope does not match X-Amz-Date."
        )
    if abs(now - sent) > MAX_SKEW_SECONDS:
        raise ApiError(
            ErrorType.REQUEST_EXPIRED,
            f"Signature expired: {dates[0]} is more than 5 minutes away from {timestamp(now)}.",
        )
    return dates[0]


def _check_signed_headers(request: SignedRequest, authorization: _Authorization) -> None:
    """Refuse a signature that leaves out what decides over the request."""
    signed = set(authorization.signed_headers)
    present = {name for name, _ in request.headers}
    needed = {"host"} | {name for name in present if name.startswith("x-amz-")}
    missing = sorted(needed - signed) + sorted(signed - present)
    if missing:
        raise ApiError(
            ErrorType.INVALID_SIGNATURE,
            f"These headers must be present and signed: {', '.join(missing)}.",
        )


def _signature(
    request: SignedRequest,
    authorization: _Authorization,
    date: str,
    body_hash: str,
    secret: Secret,
) -> str:
    canonical = canonical_request(
        request.method,
        request.path,
        request.query,
        request.headers,
        authorization.signed_headers,
        body_hash,
    )
    return signature(secret, authorization.scope, date, canonical)
