"""Verify AWS Signature Version 4, in the Authorization header or in the query. Pure.

Source: AWS Identity and Access Management user guide, "Create a signed AWS API request".
A client

1. writes the request in a canonical form: method, path, sorted query, the headers it
   chose to sign, their names, and the SHA-256 of the body;
2. hashes that;
3. puts it, with the algorithm, the date and the *scope* (day, region, service), into the
   string to sign;
4. derives a key from its secret and the parts of the scope;
5. signs the string with it (HMAC-SHA256);
6. adds key id, scope, names of signed headers and signature to the request: in the
   Authorization header or, presigned, as parameters of the query, which are signed
   themselves, except for the signature.

The verifier repeats steps 1 to 5, with the functions of :mod:`tailrace.aws.signing` that
clients use, on the request as it was received, and compares signatures. That proves what
was signed and by whom, but the client chose what to sign. So the scope must be this
service's, the date near, all headers that matter signed, and the body is always hashed
here, whatever hash the request claims.

A request without a valid signature must cost little. So the numbers of fields are bounded,
everything that can be judged without them is judged before steps 1 to 5, and the head is
judged before the body is read. A client that sends the hash of the body in a header (the SDK
for JavaScript does) has proven its key with the head.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

from ...aws.signing import ALGORITHM, canonical_request, signature, timestamp
from ...common.secret import Secret
from ..identity.policy import AccessKey
from .errors import ApiError, ErrorType

__all__ = [
    "MAX_EXPIRES_SECONDS",
    "MAX_FIELDS",
    "MAX_SKEW_SECONDS",
    "Claim",
    "RequestHead",
    "Verifier",
]

MAX_SKEW_SECONDS: Final = 300
"""By how much the clock of a client may be off."""

MAX_EXPIRES_SECONDS: Final = 7 * 24 * 3600
"""Longest time for which a presigned request may be valid."""

MAX_FIELDS: Final = 100
"""Most header fields of a request, and most parameters of its query."""

_AUTHORIZATION: Final = re.compile(
    ALGORITHM + r" +Credential=(?P<credential>[^, ]+), *"
    r"SignedHeaders=(?P<signed_headers>[^, ]+), *Signature=(?P<signature>[0-9a-f]{64})"
)
_CREDENTIAL: Final = re.compile(
    r"([!-+\--~]{1,128})/([0-9]{8})/([A-Za-z0-9-]{1,64})/([A-Za-z0-9-]{1,64})/aws4_request"
)
"""Key id, of what an Authorization header can hold, day, region and service."""
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
"""SHA-256 in hexadecimal, plain or as HMAC."""
_DATE: Final = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,128}")
"""A header's name, in lower case."""
_SECONDS: Final = re.compile(r"\d{1,6}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request as received, header names in lower case; path and query are still quoted."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        """Return the values of all header fields called ``name``."""
        return [value for field, value in self.headers if field == name]


class _Credential(NamedTuple):
    access_key_id: str
    day: str
    region: str
    service: str

    @classmethod
    def parse(cls, text: str) -> _Credential:
        parsed = _CREDENTIAL.fullmatch(text)
        if parsed is None:
            raise _incomplete("Credential must be KEY/DATE/REGION/SERVICE/aws4_request.")
        return cls(*parsed.groups())

    @property
    def scope(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


@dataclass(frozen=True, slots=True)
class _Authorization:
    """Step 6: what the client added to the request."""

    credential: _Credential
    signed_headers: tuple[str, ...]
    signature: str
    date: str
    session_tokens: tuple[str, ...]
    claimed_hashes: tuple[str, ...]
    query: str
    """The query as it was signed."""
    expires: int | None
    """Seconds for which a presigned request is valid, ``None`` for a signature in the header."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the head of a request says about who signed it."""

    key: AccessKey
    body_hash: str | None
    """The hash that the body must have: the key has signed it with the head. ``None``: the
    key is not proven before the body is there."""
    _head: RequestHead
    _authorization: _Authorization

    def prove(self, body: bytes | bytearray) -> AccessKey:
        """Return the access key that signed the head together with ``body``.

        Raises:
            ApiError: the request was signed by another key, or changed after it was signed.
        """
        body_hash = hashlib.sha256(body).hexdigest()
        if self.body_hash is None:
            _check_signature(self._head, self._authorization, body_hash, self.key)
        elif not hmac.compare_digest(body_hash, self.body_hash):
            raise _mismatch()
        return self.key


class Verifier:
    """Checks signatures for one region and service name."""

    def __init__(
        self, region: str, service: str, find_key: Callable[[str], AccessKey | None]
    ) -> None:
        self._region = region
        self._service = service
        self._find_key = find_key

    def judge(self, request: RequestHead, now: float) -> Claim:
        """Return whose signature ``request`` carries; ``now`` is in seconds since the epoch.

        Raises:
            ApiError: the request is not signed, or by an unknown key, at another time or
                for another service, or was changed after it was signed.
        """
        _check_size(request)
        # What the client chose to sign must be a request to this service at this time.
        authorization = _read_authorization(request)
        self._check_scope(authorization.credential)
        _check_date(authorization, now)
        _check_signed_headers(request, authorization)
        # The key, and the session token that a temporary one must come with.
        key = self._find_key(authorization.credential.access_key_id)
        if key is None or not _carries_token(authorization, key):
            raise ApiError(
                ErrorType.UNRECOGNIZED_CLIENT,
                "The security token included in the request is invalid.",
            )
        # A client that has brought the session token is told that its time is over.
        if key.has_expired(now):
            raise ApiError(
                ErrorType.EXPIRED_TOKEN, "The security token included in the request is expired"
            )
        # The signature that the key gives to this request, if the body it is for is known.
        body_hash = _claimed_hash(authorization)
        if body_hash is not None:
            _check_signature(request, authorization, body_hash, key)
        return Claim(key, body_hash, request, authorization)

    def _check_scope(self, credential: _Credential) -> None:
        if credential.region != self._region:
            raise ApiError(
                ErrorType.INVALID_SIGNATURE,
                f"Credential should be scoped to a valid region, not "
                f"'{credential.region}': this service is '{self._region}'.",
            )
        if credential.service != self._service:
            raise ApiError(
                ErrorType.INVALID_SIGNATURE,
                f"Credential should be scoped to correct service: '{self._service}'.",
            )


def _incomplete(text: str) -> ApiError:
    return ApiError(ErrorType.INCOMPLETE_SIGNATURE, text)


def _check_size(request: RequestHead) -> None:
    if len(request.headers) > MAX_FIELDS or request.query.count("&") >= MAX_FIELDS:
        raise _incomplete(
            f"A request may have {MAX_FIELDS} header fields and {MAX_FIELDS} query parameters."
        )


def _read_authorization(request: RequestHead) -> _Authorization:
    fields = request.values("authorization")
    query = _query_fields(request.query)
    presigned = "X-Amz-Signature" in query or "X-Amz-Algorithm" in query
    if fields and presigned:
        raise _incomplete("The signature must be in the Authorization header or in the query.")
    if presigned:
        return _read_query(request, query)
    if not fields:
        raise ApiError(ErrorType.MISSING_AUTHENTICATION, "Missing Authentication Token")
    return _read_header(request, fields)


def _query_fields(query: str) -> Mapping[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        fields.setdefault(unquote_plus(name), []).append(unquote_plus(value))
    return fields


def _read_header(request: RequestHead, fields: list[str]) -> _Authorization:
    parsed = _AUTHORIZATION.fullmatch(fields[0]) if len(fields) == 1 else None
    if parsed is None:
        raise _incomplete(
            "The Authorization header must hold Credential, SignedHeaders and Signature "
            f"of {ALGORITHM}."
        )
    dates = request.values("x-amz-date")
    if len(dates) != 1:
        raise _incomplete("The header X-Amz-Date must hold a date, once.")
    return _Authorization(
        credential=_Credential.parse(parsed["credential"]),
        signed_headers=_header_names(parsed["signed_headers"]),
        signature=parsed["signature"],
        date=dates[0],
        session_tokens=tuple(request.values("x-amz-security-token")),
        claimed_hashes=tuple(request.values("x-amz-content-sha256")),
        query=request.query,
        expires=None,
    )


def _read_query(request: RequestHead, query: Mapping[str, list[str]]) -> _Authorization:
    def one(name: str) -> str:
        values = query.get(f"X-Amz-{name}", [])
        if len(values) != 1:
            raise _incomplete(f"The query parameter X-Amz-{name} must be given, once.")
        return values[0]

    signed, expires = one("Signature"), one("Expires")
    if one("Algorithm") != ALGORITHM:
        raise _incomplete(f"X-Amz-Algorithm must be {ALGORITHM}.")
    if not _HASH.fullmatch(signed):
        raise _incomplete("The query parameter X-Amz-Signature is not a signature.")
    if not _SECONDS.fullmatch(expires) or not 1 <= int(expires) <= MAX_EXPIRES_SECONDS:
        raise _incomplete(f"X-Amz-Expires must be a number from 1 to {MAX_EXPIRES_SECONDS}.")
    parts = request.query.split("&")
    tokens = query.get("X-Amz-Security-Token", [])
    hashes = query.get("X-Amz-Content-Sha256", [])
    return _Authorization(
        credential=_Credential.parse(one("Credential")),
        signed_headers=_header_names(one("SignedHeaders")),
        signature=signed,
        date=one("Date"),
        session_tokens=(*tokens, *request.values("x-amz-security-token")),
        claimed_hashes=(*hashes, *request.values("x-amz-content-sha256")),
        query="&".join(
            part for part in parts if unquote_plus(part.partition("=")[0]) != "X-Amz-Signature"
        ),
        expires=int(expires),
    )


def _header_names(text: str) -> tuple[str, ...]:
    """Return the names in ``SignedHeaders``, :data:`MAX_FIELDS` at most."""
    names = tuple(text.split(";", MAX_FIELDS))
    is_sorted = all(name < following for name, following in pairwise(names))
    if not is_sorted or not all(map(_NAME.fullmatch, names)):
        raise _incomplete("SignedHeaders must be names in lower case, sorted, each given once.")
    return names


def _check_date(authorization: _Authorization, now: float) -> None:
    date = authorization.date
    try:
        if not _DATE.fullmatch(date):
            raise ValueError
        sent = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise _incomplete("X-Amz-Date is not a date.") from None
    if date[:8] != authorization.credential.day:
        raise ApiError(
            ErrorType.INVALID_SIGNATURE, "Date in Credential scope does not match X-Amz-Date."
        )
    good_for = MAX_SKEW_SECONDS if authorization.expires is None else authorization.expires
    if not sent - MAX_SKEW_SECONDS <= now <= sent + good_for:
        raise ApiError(
            ErrorType.REQUEST_EXPIRED,
            f"Signature of {date} is good for {good_for} seconds, and it is {timestamp(now)}.",
        )


def _check_signed_headers(request: RequestHead, authorization: _Authorization) -> None:
    """Refuse a signature that leaves out headers that matter: ``host`` and ``x-amz-*``."""
    signed = set(authorization.signed_headers)
    present = {name for name, _ in request.headers}
    needed = {"host"} | {name for name in present if name.startswith("x-amz-")}
    missing = sorted(needed - signed) + sorted(signed - present)
    if missing:
        raise ApiError(
            ErrorType.INVALID_SIGNATURE,
            f"These headers must be present and signed: {', '.join(missing)}.",
        )


def _carries_token(authorization: _Authorization, key: AccessKey) -> bool:
    """Return whether the session token is the key's, or absent for a key without one."""
    tokens = authorization.session_tokens
    if key.session_token is None:
        return not tokens
    return len(tokens) == 1 and tokens[0].isascii() and Secret(tokens[0]) == key.session_token


def _claimed_hash(authorization: _Authorization) -> str | None:
    """Return the hash that the body is to have, ``None`` if the head does not say."""
    claimed = set(authorization.claimed_hashes)
    if not claimed:
        return None
    body_hash = claimed.pop()
    if claimed or not _HASH.fullmatch(body_hash):
        raise _mismatch()
    return body_hash


def _mismatch() -> ApiError:
    return ApiError(
        ErrorType.INVALID_SIGNATURE,
        "The request signature we calculated does not match the signature you provided. "
        "Check your AWS Secret Access Key and signing method, and that no proxy in between "
        "changes the header Host.",
    )


def _check_signature(
    request: RequestHead, authorization: _Authorization, body_hash: str, key: AccessKey
) -> None:
    """Repeat steps 1 to 5, and compare signatures."""
    canonical = canonical_request(
        request.method,
        request.path,
        authorization.query,
        request.headers,
        authorization.signed_headers,
        body_hash,
    )
    expected = signature(
        key.secret_access_key, authorization.credential.scope, authorization.date, canonical
    )
    if not hmac.compare_digest(expected, authorization.signature):
        raise _mismatch()
