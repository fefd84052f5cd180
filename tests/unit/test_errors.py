"""The error tree is a promise to callers: who derives from whom, which exit code, what retries."""

from __future__ import annotations

import inspect

import pytest

from tailrace import errors
from tailrace.errors import AccessRefused, ExitCode, LinkError, TailraceError

TREE = {
    "AccessRefused": ("HandshakeFailed", ExitCode.TOKEN_REFUSED),
    "ConfigurationError": ("TailraceError", ExitCode.USAGE),
    "ConnectFailed": ("LinkError", ExitCode.NETWORK),
    "DecodeError": ("RemoteProtocolError", ExitCode.PROTOCOL),
    "HandshakeFailed": ("LinkError", ExitCode.NETWORK),
    "LinkError": ("TailraceError", ExitCode.NETWORK),
    "ListenError": ("TailraceError", ExitCode.LISTEN),
    "LocalProtocolError": ("ProtocolError", ExitCode.PROTOCOL),
    "NameResolutionFailed": ("LinkError", ExitCode.NETWORK),
    "ProtocolError": ("TailraceError", ExitCode.PROTOCOL),
    "ProxyRefused": ("LinkError", ExitCode.NETWORK),
    "RemoteProtocolError": ("ProtocolError", ExitCode.PROTOCOL),
    "ServiceIdMismatch": ("ProtocolError", ExitCode.PROTOCOL),
    "ServiceUnavailable": ("HandshakeFailed", ExitCode.NETWORK),
    "TLSFailed": ("LinkError", ExitCode.TLS),
    "TailraceError": ("Exception", ExitCode.PROTOCOL),
}


def classes() -> dict[str, type[TailraceError]]:
    """Every exception class the module defines."""
    return {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, BaseException) and kind.__module__ == errors.__name__
    }


def test_the_tree_and_the_exit_codes() -> None:
    assert {
        name: (kind.__base__.__name__, kind.exit_code) for name, kind in classes().items()
    } == TREE


def test_every_error_is_public() -> None:
    assert set(classes()) < set(errors.__all__)


def test_only_a_refused_token_is_final_among_link_errors() -> None:
    final = {k.__name__ for k in classes().values() if issubclass(k, LinkError) and not k.retryable}
    assert final == {"AccessRefused"}


def test_exit_codes_are_those_of_the_documentation() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "USAGE": 1,
        "TOKEN_REFUSED": 3,
        "NETWORK": 4,
        "LISTEN": 5,
        "TLS": 6,
        "PROTOCOL": 7,
    }


def test_access_refused_carries_the_answer() -> None:
    error = AccessRefused(400, "Bad Request", "Invalid access token")
    assert (error.status, error.reason, error.body) == (400, "Bad Request", "Invalid access token")
    assert str(error) == 'HTTP/1.1 400 Bad Request: "Invalid access token"'


def test_callers_can_catch_everything_with_one_class() -> None:
    with pytest.raises(TailraceError):
        raise AccessRefused(403, "Forbidden", "")
