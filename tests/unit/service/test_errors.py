"""The service's errors belong to the public tree."""

from tailrace.errors import TailraceError
from tailrace.service import errors


def test_all_are_tailrace_errors() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), TailraceError)


def test_a_missing_tunnel_is_named() -> None:
    assert "t-1" in str(errors.TunnelNotFound("t-1"))
