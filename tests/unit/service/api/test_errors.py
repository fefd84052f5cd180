"""Errors as SDKs see them."""

from tailrace.service.api.errors import ApiError, ErrorType


def test_every_error_has_a_name_and_an_error_status() -> None:
    assert len(ErrorType) == len({kind.code for kind in ErrorType}) == 18
    for kind in ErrorType:
        error = ApiError(kind, "text")
        assert (error.type, error.status, error.message) == (kind.code, kind.status, "text")
        assert 400 <= error.status <= 503


def test_a_log_shows_the_beginning_of_what_a_client_has_sent() -> None:
    assert ApiError(ErrorType.VALIDATION, "short").shown == "ValidationException: short"
    shown = ApiError(ErrorType.VALIDATION, "x" * 10_000).shown
    assert shown == f"ValidationException: {'x' * 197}..."
