"""The HTTP side of the control API: one signed POST, dispatched by ``X-Amz-Target``."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ...flow.token_bucket import Buckets
from ..control import ControlPlane
from ..errors import StoreFailed
from ..identity.policy import AccessKey
from ..limits import Limits, network
from ..networks import Network, forwarded_client
from ..telemetry.audit import AuditLog
from ..telemetry.counters import Counters
from ..telemetry.throttled_log import ThrottledLog
from .dispatch import perform
from .errors import ApiError, ErrorType
from .model import OPERATIONS, SIGNING_NAME
from .operations import Document
from .sigv4 import SignedRequest, Verifier
from .validation import read_parameters

__all__ = ["ControlApi"]

_log = logging.getLogger(__name__)

_TARGET_PREFIX: Final = f"{SIGNING_NAME}."
_CONTENT_TYPE: Final = "application/x-amz-json-1.1"
_OK: Final = "ok"
"""Outcome of a request that is not answered with an error, in metrics and audit log."""


class ControlApi:
    """Answers the requests of the control API."""

    def __init__(
        self,
        control: ControlPlane,
        verifier: Verifier,
        counters: Counters,
        audit: AuditLog,
        limits: Limits,
        forwarders: Collection[Network],
    ) -> None:
        """Prepare; ``forwarders`` are trusted to name their clients in ``X-Forwarded-For``."""
        self._control = control
        self._verifier = verifier
        self._counters = counters
        self._audit = audit
        self._limits = limits
        self._forwarders = forwarders
        self._throttle = _Throttle(limits.request_rate)
        self._throttled_log = ThrottledLog(_log, time.monotonic)

    def application(self, routes: Sequence[BaseRoute]) -> Starlette:
        """Return the ASGI application; ``routes`` are served besides the control API."""
        return Starlette(
            routes=[Route("/", self._handle, methods=["POST"]), *routes],
            exception_handlers={HTTPException: self._handle_other},
        )

    async def _handle(self, request: Request) -> Response:
        request_id = self._control.request_id()
        try:
            body = await _read_body(request, self._limits)
            began = time.perf_counter()
            document = self._respond(request, body, request_id)
            self._counters.request_seconds += time.perf_counter() - began
        except ApiError as error:
            self._throttled_log.add(
                error.type, "request %s: %s: %s", request_id, error.type, error.message
            )
            self._count(request, error.type)
            return _error(error, request_id)
        except ClientDisconnect:
            return Response(status_code=400)
        except StoreFailed as failed:
            _log.error("request %s: %s", request_id, failed)
            self._count(request, ErrorType.INTERNAL.code)
            return _error(
                ApiError(ErrorType.INTERNAL, "The service cannot reach its store"), request_id
            )
        self._count(request, _OK)
        return _json(document, 200, {"x-amzn-RequestId": request_id})

    async def _handle_other(self, _: Request, __: Exception) -> Response:
        """Answer requests for other paths and methods in the form that SDKs parse."""
        other = ApiError(ErrorType.UNKNOWN_OPERATION, "Requests must be POST /")
        return _error(other, self._control.request_id())

    def _count(self, request: Request, outcome: str) -> None:
        # Only names that exist: a label for each made-up one would fill the memory.
        name = _operation_name(request)
        self._counters.requests[name if name in OPERATIONS else "unknown", outcome] += 1

    def _respond(self, request: Request, body: bytes, request_id: str) -> Document:
        """Verify, validate and carry out a request; what changes something is audited."""
        key = self._verified(request, body)
        name = _operation_name(request)
        operation = OPERATIONS.get(name)
        if operation is None:
            raise ApiError(ErrorType.UNKNOWN_OPERATION, "The operation is not known")
        parameters = read_parameters(body, operation.input)
        outcome, document = ErrorType.INTERNAL.code, Document()
        try:
            document = perform(self._control, name, parameters, key)
            outcome = _OK
        except ApiError as error:
            outcome = error.type
            raise
        finally:
            if operation.writes:
                self._audit.request(
                    name,
                    parameters,
                    key=key.access_key_id,
                    address=self._address(request) or "unknown",
                    request=request_id,
                    outcome=outcome,
                    tunnel=document.get("tunnelId"),
                )
        _log.info("request %s: %s by %s", request_id, name, key.access_key_id)
        return document

    def _address(self, request: Request) -> str:
        """Return the host that a request comes from, as a proxy in between tells."""
        peer = request.client.host if request.client else ""
        return forwarded_client(request.headers.getlist("x-forwarded-for"), peer, self._forwarders)

    def _verified(self, request: Request, body: bytes) -> AccessKey:
        with self._throttle.of_address(network(self._address(request))):
            key = self._verifier.verify(_signed_request(request, body), self._control.clock())
        self._throttle.of_key(key)
        return key


class _Throttle:
    """Requests per second of each key, and refused requests per second of each address.

    A request is charged to a key only when its signature is that key's. One that is refused
    before is charged to the address it comes from, so that nobody can use up the share of a
    key by knowing its id.
    """

    def __init__(self, rate: float) -> None:
        self._keys = Buckets(rate, rate)
        self._addresses = Buckets(rate, rate)

    @contextmanager
    def of_address(self, address: str) -> Iterator[None]:
        """Charge ``address`` when the signature, checked in the body, is refused.

        Raises:
            ApiError: ThrottlingException, or what the body raises.
        """
        if self._addresses.is_empty(address, time.monotonic()):
            raise ApiError(ErrorType.THROTTLING, "Too many requests were refused")
        try:
            yield
        except ApiError:
            self._addresses.try_take(address, time.monotonic())
            raise

    def of_key(self, key: AccessKey) -> None:
        """Charge a key.

        Raises:
            ApiError: ThrottlingException.
        """
        if not self._keys.try_take(key.access_key_id, time.monotonic()):
            raise ApiError(ErrorType.THROTTLING, "Rate exceeded")


def _operation_name(request: Request) -> str:
    return request.headers.get("x-amz-target", "").removeprefix(_TARGET_PREFIX)


async def _read_body(request: Request, limits: Limits) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(limits.handshake_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.request_bytes:
                    raise ApiError(
                        ErrorType.TOO_LARGE,
                        f"The request body exceeds {limits.request_bytes} bytes",
                    )
    except TimeoutError:
        raise ApiError(ErrorType.REQUEST_TIMEOUT, "The request body did not come in time") from None
    return bytes(body)


def _signed_request(request: Request, body: bytes) -> SignedRequest:
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return SignedRequest(
        request.method,
        raw_path.decode("latin-1"),
        request.scope["query_string"].decode("latin-1"),
        [
            (name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape"))
            for name, value in request.headers.raw
        ],
        body,
    )


def _json(document: Document, status: int, headers: dict[str, str]) -> Response:
    return Response(json.dumps(document).encode(), status, headers, _CONTENT_TYPE)


def _error(error: ApiError, request_id: str) -> Response:
    return _json(
        {"__type": error.type, "message": error.message},
        error.status,
        {"x-amzn-RequestId": request_id, "x-amzn-ErrorType": error.type},
    )
