"""The HTTP side of the control API: one signed POST, dispatched by ``X-Amz-Target``."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ...flow.token_bucket import Buckets
from ..control import ControlPlane
from ..errors import StoreFailed
from ..identity.policy import AccessKey
from ..limits import DEFAULT, Limits, network
from ..telemetry.audit import AuditLog
from ..telemetry.counters import Counters
from ..telemetry.throttled_log import ThrottledLog
from .errors import ApiError, ErrorType
from .model import OPERATIONS
from .operations import Operations
from .sigv4 import SignedRequest, Verifier
from .validation import read_parameters

__all__ = ["build_app"]

_log = logging.getLogger(__name__)

_TARGET_PREFIX: Final = "IoTSecuredTunneling."
_CONTENT_TYPE: Final = "application/x-amz-json-1.1"


def build_app(
    control: ControlPlane,
    verifier: Verifier,
    counters: Counters | None = None,
    audit: AuditLog | None = None,
    routes: Sequence[BaseRoute] = (),
    *,
    limits: Limits = DEFAULT,
) -> Starlette:
    """Return the ASGI application; ``routes`` are served besides the control API."""
    endpoint = _Endpoint(
        control,
        verifier,
        counters or Counters(time.monotonic),
        audit or AuditLog(None, time.time),
        limits,
    )
    return Starlette(
        routes=[Route("/", endpoint.handle, methods=["POST"]), *routes],
        exception_handlers={HTTPException: endpoint.handle_stray},
    )


@dataclass(slots=True)
class _Entry:
    """What is recorded of one request."""

    operation: str
    parameters: Mapping[str, Any]
    key: str
    address: str
    request_id: str
    tunnel: str | None = None


class _Endpoint:
    def __init__(
        self,
        control: ControlPlane,
        verifier: Verifier,
        counters: Counters,
        audit: AuditLog,
        limits: Limits,
    ) -> None:
        self._control = control
        self._counters = counters
        self._audit = audit
        self._verifier = verifier
        self._operations = Operations(control)
        self._limits = limits
        self._throttle = _Throttle(limits, time.monotonic)
        self._refusals = ThrottledLog(_log, time.monotonic)

    async def handle(self, request: Request) -> Response:
        request_id = self._control.request_id()
        try:
            body = await _read_body(request, self._limits)
            began = time.perf_counter()
            document = self._answer(request, body, request_id)
            self._counters.request_seconds += time.perf_counter() - began
        except ApiError as error:
            self._refusals.add(
                error.type, "request %s: %s: %s", request_id, error.type, error.message
            )
            self._count(request, error.type)
            return _error(error, request_id)
        except ClientDisconnect:
            return Response(status_code=400)
        except StoreFailed as failed:
            _log.error("request %s: %s", request_id, failed)
            self._count(request, ErrorType.INTERNAL[0])
            return _error(
                ApiError(ErrorType.INTERNAL, "The service cannot reach its store"), request_id
            )
        self._count(request, "ok")
        return _json(document, 200, {"x-amzn-RequestId": request_id})

    def _count(self, request: Request, outcome: str) -> None:
        # Only names that exist: a label per nonsense would fill the memory.
        name = request.headers.get("x-amz-target", "").removeprefix(_TARGET_PREFIX)
        operation = name if name in self._operations else "unknown"
        self._counters.requests[operation, outcome] += 1

    async def handle_stray(self, request: Request, error: Exception) -> Response:
        """Answer requests for other paths and methods in the shape SDKs parse."""
        del request, error
        stray = ApiError(ErrorType.UNKNOWN_OPERATION, "Requests must be POST /")
        return _error(stray, self._control.request_id())

    def _answer(self, request: Request, body: bytes, request_id: str) -> dict[str, Any]:
        key = self._verified(request, body)
        signer = key.access_key_id
        name = request.headers.get("x-amz-target", "").removeprefix(_TARGET_PREFIX)
        if name not in self._operations:
            raise ApiError(ErrorType.UNKNOWN_OPERATION, "The operation is not known")
        parameters = read_parameters(body, OPERATIONS[name])
        client = request.client
        entry = _Entry(name, parameters, signer, client.host if client else "unknown", request_id)
        with self._audited(entry):
            document = self._operations.call(name, parameters, key)
            entry.tunnel = document.get("tunnelId")
        _log.info("request %s: %s by %s", request_id, name, signer)
        return document

    def _verified(self, request: Request, body: bytes) -> AccessKey:
        address = network(request.client.host if request.client else "")
        with self._throttle.of_address(address):
            key = self._verifier.verify(_signed_request(request, body), self._control.clock())
        self._throttle.of_key(key)
        return key

    @contextmanager
    def _audited(self, entry: _Entry) -> Iterator[None]:
        """Record one authenticated operation, however it ends."""
        outcome = ErrorType.INTERNAL[0]
        try:
            yield
            outcome = "ok"
        except ApiError as error:
            outcome = error.type
            raise
        finally:
            self._audit.request(
                entry.operation,
                entry.parameters,
                key=entry.key,
                address=entry.address,
                request=entry.request_id,
                outcome=outcome,
                tunnel=entry.tunnel,
            )


class _Throttle:
    """Requests per second of each key, and of each address that cannot show one.

    Who is refused before the key is known for sure must not use up what its owner may
    have; so such requests are charged to where they come from.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._keys = Buckets(limits.request_rate, limits.request_rate)
        self._strangers = Buckets(limits.request_rate, limits.request_rate)

    @contextmanager
    def of_address(self, address: str) -> Iterator[None]:
        """Charge ``address`` when the signature, checked in the body, is refused.

        Raises:
            ApiError: ThrottlingException, or what the body raises.
        """
        if self._strangers.is_empty(address, self._clock()):
            raise _throttled("Too many requests were refused")
        try:
            yield
        except ApiError:
            self._strangers.try_take(address, self._clock())
            raise

    def of_key(self, key: AccessKey) -> None:
        """Charge a key.

        Raises:
            ApiError: ThrottlingException.
        """
        if not self._keys.try_take(key.access_key_id, self._clock()):
            raise _throttled("Rate exceeded")


def _throttled(text: str) -> ApiError:
    return ApiError(ErrorType.THROTTLING, text)


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


def _json(document: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    return Response(json.dumps(document).encode(), status, headers, _CONTENT_TYPE)


def _error(error: ApiError, request_id: str) -> Response:
    return _json(
        {"__type": error.type, "message": error.message},
        error.status,
        {"x-amzn-RequestId": request_id, "x-amzn-ErrorType": error.type},
    )
