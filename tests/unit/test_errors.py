"""The error tree is a promise to callers: who derives from whom, what retries, which facts."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable

import pytest

from tailrace import errors
from tailrace.errors import (
    AccessRefused,
    CallRefused,
    CertificateFault,
    CertificateRejected,
    ConfigurationError,
    ControlError,
    LinkError,
    ListenError,
    TailraceError,
)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
@pytest.mark.parametrize(
    "error",
    [
        AccessRefused(403, "Forbidden", "no"),
        ControlError("ThrottlingException", "slow down"),
        ListenError("taken", service_id="SSH", port=22),
        errors.HandshakeAltered("altered", 400, "Bad Request", "upgrade"),
        errors.TimedOut("late"),
        CertificateRejected("expired", fault=CertificateFault.OUT_OF_DATE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_passes_between_processes(
    error: TailraceError, again: Callable[[TailraceError], TailraceError]
):
    error.add_note("as seen by a worker")
    found = again(error)
    assert type(found) is type(error)
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize(
    ("advice", "line"),
    [("", "no route"), ("check it", "no route. Check it"), ("Call back", "no route. Call back")],
)
def test_an_error_and_its_advice_in_one_line(advice: str, line: str):
    error = TailraceError("no route")
    error.advice = advice
    assert error.explain() == line


TREE = {
    "AccessRefused": "HandshakeFailed",
    "CallRefused": "ControlError",
    "CertificateRejected": "TLSFailed",
    "ConfigurationError": "TailraceError",
    "ConnectFailed": "LinkError",
    "ControlCertificateRejected": "ControlError",
    "ControlError": "TailraceError",
    "ControlThrottled": "ControlError",
    "CredentialsRefused": "CallRefused",
    "DecodeError": "RemoteProtocolError",
    "HandshakeAltered": "HandshakeFailed",
    "HandshakeFailed": "LinkError",
    "LimitExceeded": "CallRefused",
    "LinkError": "TailraceError",
    "ListenError": "TailraceError",
    "LocalProtocolError": "ProtocolError",
    "NameResolutionFailed": "LinkError",
    "NotTunnelingService": "HandshakeFailed",
    "NotificationIgnored": "TailraceError",
    "NotificationNotStored": "TailraceError",
    "OpenFailed": "TailraceError",
    "ProtocolError": "TailraceError",
    "ProxyRefused": "LinkError",
    "RemoteProtocolError": "ProtocolError",
    "ResponseLost": "ControlError",
    "ServiceIdMismatch": "ProtocolError",
    "ServiceUnavailable": "HandshakeFailed",
    "TLSFailed": "LinkError",
    "TailraceError": "Exception",
    "TimedOut": "TailraceError",
    "TokenRotated": "LinkError",
    "TunnelClosed": "OpenFailed",
    "TunnelNotFound": "CallRefused",
}


def classes() -> dict[str, type[TailraceError]]:
    """Every exception class the module defines."""
    return {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, BaseException) and kind.__module__ == errors.__name__
    }


def test_the_tree() -> None:
    assert {name: kind.__bases__[0].__name__ for name, kind in classes().items()} == TREE


def test_every_error_is_public() -> None:
    assert set(classes()) < set(errors.__all__)


def test_what_is_refused_for_good_is_final_among_link_errors() -> None:
    final = {k.__name__ for k in classes().values() if issubclass(k, LinkError) and not k.retryable}
    assert final == {
        "AccessRefused",
        "CertificateRejected",
        "HandshakeAltered",
        "NotTunnelingService",
        "TokenRotated",
    }


def test_access_refused_carries_the_response() -> None:
    error = AccessRefused(400, "Bad Request", "Invalid access token")
    assert (error.status, error.reason, error.body) == (400, "Bad Request", "Invalid access token")
    assert str(error) == 'HTTP/1.1 400 Bad Request: "Invalid access token"'


@pytest.mark.parametrize("kind", [ControlError, CallRefused])
def test_errors_of_the_control_api_carry_its_code(kind: type[ControlError]) -> None:
    error = kind("ResourceNotFoundException", "no such tunnel")
    assert error.code == "ResourceNotFoundException"
    assert str(error) == "ResourceNotFoundException: no such tunnel"
    assert str(kind("", "timed out")) == "timed out"


def test_a_setting_at_fault_is_a_fact_and_no_part_of_the_text() -> None:
    error = ConfigurationError("cannot make the directory", setting="state_dir")
    assert (str(error), error.setting) == ("cannot make the directory", "state_dir")
    assert ConfigurationError("x").setting == ""


def test_what_could_not_be_bound_is_a_fact() -> None:
    error = ListenError("x", setting="services", service_id="SSH", port=22, errno=98)
    assert (error.setting, error.service_id, error.port, error.errno) == ("services", "SSH", 22, 98)
    assert str(error) == "x"


def test_what_is_wrong_with_a_certificate_is_a_fact() -> None:
    assert CertificateRejected("x").fault is CertificateFault.UNTRUSTED
    fault = CertificateFault.WRONG_NAME
    assert CertificateRejected("x", fault=fault).fault is fault


def test_callers_can_catch_everything_with_one_class() -> None:
    with pytest.raises(TailraceError):
        raise AccessRefused(403, "Forbidden", "")
