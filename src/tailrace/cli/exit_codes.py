"""The exit codes of the commands, and the one table from errors to them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from ..errors import (
    AccessRefused,
    CallRefused,
    CertificateRejected,
    ConfigurationError,
    ControlCertificateRejected,
    ControlError,
    HandshakeAltered,
    LinkError,
    ListenError,
    TailraceError,
    TimedOut,
    TokenRotated,
)

__all__ = ["BROKEN_PIPE", "INTERRUPTED", "SIGNALLED", "ChecksFailed", "ExitCode", "exit_code_of"]

SIGNALLED: Final = 128
"""What a shell adds to the number of the signal that has ended a command."""
INTERRUPTED: Final = 130
"""128 + SIGINT: what a shell reports for a command that Ctrl-C has ended."""
BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: what it reports for a command that wrote to a pipe without a reader."""


class ExitCode(IntEnum):
    """Exit status of the commands; the same table stands in ``docs/reference/exit-codes.md``."""

    OK = 0
    """Ended as asked: tunnel closed or expired, SIGTERM, SIGINT."""
    USAGE = 1
    """Wrong command line, configuration file or environment."""
    TOKEN_REFUSED = 3
    """The service refused the access token or the client token."""
    NETWORK = 4
    """The service could not be reached within the allowed number of tries."""
    LISTEN = 5
    """A local port or socket path could not be bound."""
    TLS = 6
    """The service's certificate could not be verified."""
    PROTOCOL = 7
    """The service or the peer broke the protocol, or the service ids do not match."""
    ALTERED = 8
    """Something between local proxy and service changed the upgrade request."""
    CHECK_FAILED = 9
    """A check has failed: each line says what, and what to do."""


class ChecksFailed(TailraceError):
    """A command has checked something, and not all is well."""

    first: TailraceError | None = None
    """The error behind the first failure, for a command that ends as with that one."""


_EXIT_CODES: Final[Mapping[type[BaseException], ExitCode]] = {
    TailraceError: ExitCode.PROTOCOL,
    ConfigurationError: ExitCode.USAGE,
    CallRefused: ExitCode.USAGE,
    AccessRefused: ExitCode.TOKEN_REFUSED,
    TokenRotated: ExitCode.TOKEN_REFUSED,
    HandshakeAltered: ExitCode.ALTERED,
    LinkError: ExitCode.NETWORK,
    TimedOut: ExitCode.NETWORK,
    ControlError: ExitCode.NETWORK,
    ListenError: ExitCode.LISTEN,
    CertificateRejected: ExitCode.TLS,
    ControlCertificateRejected: ExitCode.TLS,
    ChecksFailed: ExitCode.CHECK_FAILED,
}
"""Errors that are not here have the code of their nearest base class."""


def exit_code_of(error: TailraceError) -> ExitCode:
    """Return the exit code of a command that ends with ``error``."""
    if isinstance(error, ChecksFailed) and error.first is not None:
        return exit_code_of(error.first)
    return next(_EXIT_CODES[kind] for kind in type(error).__mro__ if kind in _EXIT_CODES)
