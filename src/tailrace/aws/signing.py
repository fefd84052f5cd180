"""AWS Signature Version 4: what is signed and how. Pure.

Source: AWS Identity and Access Management user guide, "Create a signed AWS API
request". The service verifies with the same functions the client signs with.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, unquote_plus

from ..common.secret import Secret

__all__ = [
    "ALGORITHM",
    "SIGNING_NAME",
    "authorization",
    "canonical_request",
    "signature",
    "timestamp",
]

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SIGNING_NAME: Final = "IoTSecuredTunneling"
"""The name of the service in signatures."""
_UNRESERVED: Final = "-_.~"

Headers = Sequence[tuple[str, str]]


def timestamp(now: float) -> str:
    """Format seconds since the epoch the way ``X-Amz-Date`` wants them."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")


def canonical_request(
    method: str, path: str, query: str, headers: Headers, signed: Sequence[str], body_hash: str
) -> str:
    """Return the canonical form of a request; header names are in lower case.

    ``path`` and ``query`` are given as they are sent; ``body_hash`` is hexadecimal.
    """
    values: dict[str, list[str]] = {name: [] for name in signed}
    for name, value in headers:
        if name in values:
            values[name].append(value)
    return "\n".join(
        (
            method,
            quote(path or "/", safe="/" + _UNRESERVED),
            _canonical_query(query),
            *(
                f"{name}:{','.join(' '.join(value.split()) for value in values[name])}"
                for name in signed
            ),
            "",
            ";".join(signed),
            body_hash,
        )
    )


def _canonical_query(query: str) -> str:
    pairs = []
    for part in query.split("&") if query else []:
        name, _, value = part.partition("=")
        pairs.append(tuple(quote(unquote_plus(text), safe=_UNRESERVED) for text in (name, value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def signature(secret: Secret, scope: str, date: str, canonical: str) -> str:
    """Return the signature, in hexadecimal, of a canonical request.

    ``scope`` is ``day/region/service/aws4_request``, ``date`` as :func:`timestamp` gives it.
    """
    hashed = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    to_sign = "\n".join((ALGORITHM, date, scope, hashed))
    key = ("AWS4" + secret.reveal()).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, to_sign.encode(), "sha256").hexdigest()


def authorization(
    key_id: str,
    secret: Secret,
    region: str,
    service: str,
    date: str,
    headers: Headers,
    body: bytes,
    *,
    method: str = "POST",
    path: str = "/",
    query: str = "",
) -> str:
    """Return the ``Authorization`` header of a request that signs all ``headers``.

    Header names are in lower case; ``date`` is the value of the header ``x-amz-date``. Path and
    query are given as they are sent.
    """
    signed = sorted({name for name, _ in headers})
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    body_hash = hashlib.sha256(body).hexdigest()
    canonical = canonical_request(method, path, query, headers, signed, body_hash)
    return (
        f"{ALGORITHM} Credential={key_id}/{scope}, SignedHeaders={';'.join(signed)}, "
        f"Signature={signature(secret, scope, date, canonical)}"
    )
