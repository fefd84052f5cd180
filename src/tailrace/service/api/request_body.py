"""Where a request comes from, and its body as far as it may be read."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from starlette.requests import Request

from ..networks import Network, forwarded_client
from .body_budget import BodyShare
from .errors import ApiError, ErrorType

__all__ = ["address_of", "check_length", "read_body"]


def address_of(request: Request, forwarders: Collection[Network]) -> str:
    """Return the host that a request comes from, as a proxy in between tells."""
    if request.client is None:
        return "unknown"
    fields = request.headers.getlist("x-forwarded-for")
    return forwarded_client(fields, request.client.host, forwarders)


def check_length(request: Request, most: int) -> None:
    """Refuse a request by the length of its body, in bytes.

    Raises:
        ApiError: it is too long, or does not say.
    """
    if "transfer-encoding" in request.headers:
        raise ApiError(ErrorType.LENGTH_REQUIRED, "The request must have a Content-Length")
    # A number: uvicorn answers others with 400.
    if int(request.headers.get("content-length", 0)) > most:
        raise ApiError(ErrorType.TOO_LARGE, f"The request body exceeds {most} bytes")


async def read_body(request: Request, seconds: float, share: BodyShare) -> bytearray:
    """Return the body, which must come within ``seconds`` and fit in ``share``.

    Raises:
        ApiError: it does not.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                share.grow(len(body) + len(chunk))
                body += chunk
    except TimeoutError:
        raise ApiError(ErrorType.REQUEST_TIMEOUT, "The request body did not come in time") from None
    return body
