"""One table says with which status a command ends."""

from __future__ import annotations

import importlib

import pytest

from support.repository import MODULES
from tailrace.cli.exit_codes import ChecksFailed, ExitCode, exit_code_of
from tailrace.errors import CertificateRejected, TailraceError
from tailrace.service.errors import ServiceError, SettingsError

CODES = {
    "tailrace.cli.exit_codes.ChecksFailed": ExitCode.CHECK_FAILED,
    "tailrace.cli.localproxy.ini.NotAnIniFile": ExitCode.USAGE,
    "tailrace.cli.localproxy.values.UsageError": ExitCode.USAGE,
    "tailrace.common.addresses.AddressError": ExitCode.USAGE,
    "tailrace.common.setting_errors.SettingUnusable": ExitCode.USAGE,
    "tailrace.common.setting_errors.SettingsError": ExitCode.PROTOCOL,
    "tailrace.demo.measurements.DemoFailed": ExitCode.PROTOCOL,
    "tailrace.errors.AccessRefused": ExitCode.TOKEN_REFUSED,
    "tailrace.errors.CallRefused": ExitCode.USAGE,
    "tailrace.errors.CertificateRejected": ExitCode.TLS,
    "tailrace.errors.ConfigurationError": ExitCode.USAGE,
    "tailrace.errors.ConnectFailed": ExitCode.NETWORK,
    "tailrace.errors.ControlCertificateRejected": ExitCode.TLS,
    "tailrace.errors.ControlError": ExitCode.NETWORK,
    "tailrace.errors.ControlThrottled": ExitCode.NETWORK,
    "tailrace.errors.CredentialsRefused": ExitCode.USAGE,
    "tailrace.errors.DecodeError": ExitCode.PROTOCOL,
    "tailrace.errors.HandshakeFailed": ExitCode.NETWORK,
    "tailrace.errors.LimitExceeded": ExitCode.USAGE,
    "tailrace.errors.LinkError": ExitCode.NETWORK,
    "tailrace.errors.ListenError": ExitCode.LISTEN,
    "tailrace.errors.LocalProtocolError": ExitCode.PROTOCOL,
    "tailrace.errors.NameResolutionFailed": ExitCode.NETWORK,
    "tailrace.errors.HandshakeAltered": ExitCode.ALTERED,
    "tailrace.errors.NotTunnelingService": ExitCode.NETWORK,
    "tailrace.errors.NotificationIgnored": ExitCode.PROTOCOL,
    "tailrace.errors.NotificationNotStored": ExitCode.PROTOCOL,
    "tailrace.errors.OpenFailed": ExitCode.PROTOCOL,
    "tailrace.errors.ProtocolError": ExitCode.PROTOCOL,
    "tailrace.errors.ProxyRefused": ExitCode.NETWORK,
    "tailrace.errors.RemoteProtocolError": ExitCode.PROTOCOL,
    "tailrace.errors.ResponseLost": ExitCode.NETWORK,
    "tailrace.errors.ServiceIdMismatch": ExitCode.PROTOCOL,
    "tailrace.errors.ServiceUnavailable": ExitCode.NETWORK,
    "tailrace.errors.TLSFailed": ExitCode.NETWORK,
    "tailrace.errors.TailraceError": ExitCode.PROTOCOL,
    "tailrace.errors.TimedOut": ExitCode.NETWORK,
    "tailrace.errors.TokenRotated": ExitCode.TOKEN_REFUSED,
    "tailrace.errors.TunnelClosed": ExitCode.PROTOCOL,
    "tailrace.errors.TunnelNotFound": ExitCode.USAGE,
    "tailrace.localproxy.validation.RejectedInput": ExitCode.USAGE,
    "tailrace.mqtt.errors.BrokerError": ExitCode.PROTOCOL,
    # It brings the status with it.
    "tailrace.operator.failures.CommandFailed": ExitCode.PROTOCOL,
    "tailrace.operator.doctor.tunnel.TokenUseless": ExitCode.TOKEN_REFUSED,
}


def kinds(kind: type[TailraceError]) -> set[type[TailraceError]]:
    """Return every error class of the package."""
    return {kind}.union(*map(kinds, kind.__subclasses__()))


def name_of(kind: type[TailraceError]) -> str:
    return f"{kind.__module__}.{kind.__name__}"


@pytest.fixture(scope="module", autouse=True)
def everything_imported() -> None:
    for name in MODULES:
        importlib.import_module(name)


def codes(of: type[TailraceError]) -> dict[str, ExitCode]:
    return {name_of(kind): exit_code_of(kind.__new__(kind)) for kind in kinds(of)}


def test_every_error_has_its_code() -> None:
    found = {n: c for n, c in codes(TailraceError).items() if n.startswith("tailrace.")}
    assert {n: c for n, c in found.items() if ".service." not in n} == CODES


def test_errors_of_the_service_end_no_command() -> None:
    """The service answers them; one that ended it would be a fault of no kind the table has."""
    assert set(codes(ServiceError).values()) == {ExitCode.PROTOCOL}


def test_settings_of_the_service_are_settings() -> None:
    assert set(codes(SettingsError).values()) == {
        ExitCode.USAGE,
        ExitCode.LISTEN,
        ExitCode.PROTOCOL,
    }


def test_the_most_specific_class_counts() -> None:
    class Unlisted(TailraceError):
        pass

    assert exit_code_of(Unlisted("x")) is ExitCode.PROTOCOL


def test_checks_may_end_as_what_they_have_found() -> None:
    error = ChecksFailed("2 of 9 checks failed")
    assert exit_code_of(error) is ExitCode.CHECK_FAILED
    error.first = CertificateRejected("of a stranger")
    assert exit_code_of(error) is ExitCode.TLS


def test_codes_are_those_of_the_documentation() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "USAGE": 1,
        "TOKEN_REFUSED": 3,
        "NETWORK": 4,
        "LISTEN": 5,
        "TLS": 6,
        "PROTOCOL": 7,
        "ALTERED": 8,
        "CHECK_FAILED": 9,
    }
