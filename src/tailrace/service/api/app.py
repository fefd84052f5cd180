"""The HTTP side of the control API: one signed POST, dispatched by ``X-Amz-Target``."""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ..control import ControlPlane
from ..errors import StoreFailed
from .errors import ApiError, ErrorType
from .model import OPERATIONS
from .operations import Operations
from .sigv4 import SignedRequest, Verifier
from .validation import read_parameters

__all__ = ["MAX_BODY", "build_app"]

_log = logging.getLogger(__name__)

MAX_BODY: Final = 1024 * 1024
"""Bytes of a request body; the largest legal request has a third of that."""

_TARGET_PREFIX: Final = "IoTSecuredTunneling."
_CONTENT_TYPE: Final = "application/x-amz-json-1.1"


def build_app(control: ControlPlane, verifier: Verifier) -> Starlette:
    """Return the ASGI application."""
    endpoint = _Endpoint(control, verifier)
    return Starlette(
        routes=[Route("/", endpoint.handle, methods=["POST"])],
        exception_handlers={HTTPException: endpoint.handle_stray},
    )


class _Endpoint:
    def __init__(self, control: ControlPlane, verifier: Verifier) -> None:
        self._control = control
        self._verifier = verifier
        self._operations = Operations(control)

    async def handle(self, request: Request) -> Response:
        request_id = self._control.request_id()
        try:
            body = await _read_body(request)
            document = self._answer(request, body, request_id)
        except ApiError as error:
            _log.info("request %s: %s: %s", request_id, error.type, error.message)
            return _error(error, request_id)
        except ClientDisconnect:
            return Response(status_code=400)
        except StoreFailed as failed:
            _log.error("request %s: %s", request_id, failed)
            return _error(
                ApiError(ErrorType.INTERNAL, "The service cannot reach its store"), request_id
            )
        return _json(document, 200, {"x-amzn-RequestId": request_id})

    async def handle_stray(self, request: Request, error: Exception) -> Response:
        """Answer requests for other paths and methods in the shape SDKs parse."""
        del request, error
        stray = ApiError(ErrorType.UNKNOWN_OPERATION, "Requests must be POST /")
        return _error(stray, self._control.request_id())

    def _answer(self, request: Request, body: bytes, request_id: str) -> dict[str, Any]:
        signer = self._verifier.verify(_signed_request(request, body), self._control.clock())
        name = request.headers.get("x-amz-target", "").removeprefix(_TARGET_PREFIX)
        if name not in self._operations:
            raise ApiError(ErrorType.UNKNOWN_OPERATION, "The operation is not known")
        parameters = read_parameters(body, OPERATIONS[name])
        document = self._operations.call(name, parameters)
        _log.info("request %s: %s by %s", request_id, name, signer)
        return document


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ApiError(ErrorType.TOO_LARGE, f"The request body exceeds {MAX_BODY} bytes")
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
