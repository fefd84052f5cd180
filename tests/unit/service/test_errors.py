"""The service's errors belong to the public tree."""

from tailrace.errors import TailraceError
from tailrace.service import errors


def test_all_are_tailrace_errors() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), TailraceError)


def test_a_missing_tunnel_is_named() -> None:
    assert "t-1" in str(errors.TunnelNotFound("t-1"))


def test_some_settings_have_other_names_for_others() -> None:
    error = errors.AddressUnusable("{0} {path}: {1}", "api_listen", "state_dir", path="/{0}")
    renamed = error.renamed({"api_listen": "api_port"})
    assert type(renamed) is errors.AddressUnusable
    assert str(renamed) == "api_port /{0}: state_dir"
    assert renamed.setting == "api_port"
