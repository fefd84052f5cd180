"""Errors as SDKs see them."""

from tailrace.service.api.errors import ApiError, ErrorType


def test_every_error_has_a_name_and_an_error_status() -> None:
    types = [value for name, value in vars(ErrorType).items() if name.isupper()]
    assert len(types) == len({name for name, _ in types})
    for name, status in types:
        error = ApiError((name, status), "text")
        assert (error.type, error.status, error.message) == (name, status, "text")
        assert 400 <= error.status <= 500
