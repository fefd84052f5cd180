"""Responses in the form that AWS SDKs parse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from .errors import ApiError

__all__ = ["error_response", "json_response"]

_CONTENT_TYPE: Final = "application/x-amz-json-1.1"


def json_response(document: Mapping[str, Any], status: int, headers: dict[str, str]) -> Response:
    """Return a response with a JSON object."""
    return Response(json.dumps(document).encode(), status, headers, _CONTENT_TYPE)


def error_response(error: ApiError, request_id: str) -> Response:
    """Return the response that tells of an error."""
    return json_response(
        {"__type": error.type, "message": error.message},
        error.status,
        {"x-amzn-RequestId": request_id, "x-amzn-ErrorType": error.type},
    )
