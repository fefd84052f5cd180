"""The form of responses."""

import json

from tailrace.service.api.errors import ApiError, ErrorType
from tailrace.service.api.responses import error_response, json_response


def test_a_document() -> None:
    response = json_response({"a": 1}, 200, {"x-y": "z"})
    assert (response.status_code, response.body) == (200, b'{"a": 1}')
    assert response.headers["content-type"] == "application/x-amz-json-1.1"
    assert response.headers["x-y"] == "z"


def test_an_error_in_header_and_body() -> None:
    response = error_response(ApiError(ErrorType.THROTTLING, "slower"), "r-1")
    assert response.status_code == 429
    assert response.headers["x-amzn-errortype"] == "ThrottlingException"
    assert response.headers["x-amzn-requestid"] == "r-1"
    assert json.loads(bytes(response.body)) == {
        "__type": "ThrottlingException",
        "message": "slower",
    }
