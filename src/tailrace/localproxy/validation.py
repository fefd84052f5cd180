"""The limits of every value that comes from outside, as the C++ command has them.

Each check either returns or raises :class:`RejectedInput`; none of them repeats the
value, which may be a token.
"""

from __future__ import annotations

import os
import re
from typing import Final

from ..errors import ConfigurationError

__all__ = [
    "RejectedInput",
    "looks_like_file_name",
    "rejected_port",
    "validate_access_token",
    "validate_address_characters",
    "validate_client_token",
    "validate_path",
    "validate_region",
    "validate_service_id",
    "validate_subprotocol",
]

_MAX_ACCESS_TOKEN: Final = 4_096
_MIN_CLIENT_TOKEN: Final = 32
_MAX_CLIENT_TOKEN: Final = 128
_MAX_HOST: Final = 253
_MAX_REGION: Final = 64
_MAX_SERVICE_ID: Final = 128
_MAX_PATH: Final = 4_096
_MAX_FILE_NAME: Final = 255
"""Longer texts are taken for tokens, which may begin with a slash."""
_MAX_INT: Final = 2_147_483_647

_REGION: Final = re.compile(r"[a-z0-9-]+")
_SERVICE_ID: Final = re.compile(r"[a-zA-Z0-9:_-]+")
_ADDRESS: Final = re.compile(r"[a-zA-Z0-9.:\[\]-]+")
_FILE_NAME: Final = re.compile(
    r"(\.{0,2}|~[\w-]*)[/\\]|[a-zA-Z]:\\|file:"
    r"|.*\.(txt|json|token|tok|pem|key|crt|conf|cfg|ini|env|dat|bin|secret)$"
)
_HTTP_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")


class RejectedInput(ConfigurationError):
    """A value is outside its limits.

    ``input_name`` and ``reason`` are those of the line that precedes the error in the
    log: ``SECURITY: Rejected input for '<input_name>': <reason>``.
    """

    def __init__(self, input_name: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.input_name = input_name
        self.reason = reason


def validate_access_token(token: str) -> None:
    """Check an access token: 1 to 4096 ASCII characters, no spaces or control characters."""
    name = "access-token"
    _check_length(name, "Access token", token, _MAX_ACCESS_TOKEN)
    hint = "; give the token alone, or name the file that holds it with --access-token-file"
    if _has_forbidden_characters(token):
        raise RejectedInput(
            name,
            "contains control characters",
            "Access token contains invalid control characters"
            + (hint if any(c.isspace() for c in token) else ""),
        )
    if " " in token:
        raise RejectedInput(name, "contains whitespace", f"Access token contains whitespace{hint}")


def looks_like_file_name(token: str) -> bool:
    """Return whether ``token`` is rather the name of a file than an access token.

    Tokens of the service consist of letters, digits and ``+/=_-``.
    """
    return len(token) <= _MAX_FILE_NAME and _FILE_NAME.match(token) is not None


def validate_client_token(token: str) -> None:
    """Check a client token: 32 to 128 printable ASCII characters."""
    name = "client-token"
    if not _MIN_CLIENT_TOKEN <= len(token) <= _MAX_CLIENT_TOKEN:
        raise RejectedInput(
            name,
            "invalid length (must be 32-128 chars)",
            "Client token must be between 32 and 128 characters",
        )
    if _has_forbidden_characters(token):
        raise RejectedInput(
            name,
            "contains control characters",
            "Client token contains invalid control characters",
        )


def validate_region(region: str) -> None:
    """Check the name of an AWS region."""
    _check_length("region", "Region", region, _MAX_REGION)
    if not _REGION.fullmatch(region):
        raise RejectedInput(
            "region",
            "invalid format",
            "Region must contain only lowercase letters, numbers, and hyphens",
        )


def validate_service_id(service_id: str) -> None:
    """Check a service id by the rule of the API: ``[a-zA-Z0-9:_-]{1,128}``."""
    if service_id:
        _check_length("service-id", "Service ID", service_id, _MAX_SERVICE_ID)
    if not _SERVICE_ID.fullmatch(service_id):
        raise RejectedInput(
            "service-id",
            "invalid characters",
            "Service ID must contain only alphanumeric characters, hyphens, underscores, and"
            " colons",
        )


def rejected_port(text: str) -> RejectedInput:
    """Return what is said about ``text``, which is not a port from 1 to 65535."""
    if not (text.isascii() and text.isdigit()):
        return RejectedInput("port", "non-numeric characters", "Port must contain only digits")
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(_MAX_INT)) or int(digits) > _MAX_INT:
        return RejectedInput("port", "value too large", "Port value is too large")
    return RejectedInput("port", "out of valid range", "Port must be between 1 and 65535")


def validate_path(path: str) -> None:
    """Check a path: 1 to 4096 bytes, none of them NUL."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise RejectedInput(
            "path", "invalid characters", "Path contains invalid characters"
        ) from None
    _check_length("path", "Path", encoded, _MAX_PATH)
    if b"\0" in encoded:
        raise RejectedInput("path", "contains null byte", "Path contains invalid null byte")


def validate_address_characters(text: str, input_name: str, noun: str, hint: str = "") -> None:
    """Check what all network addresses have in common; ``hint`` ends the message.

    They are 1 to 253 of the characters of host names, addresses and ports.
    """
    _check_length(input_name, noun, text, _MAX_HOST)
    if not _ADDRESS.fullmatch(text):
        raise RejectedInput(
            input_name, "invalid characters", f"{noun} contains invalid characters{hint}"
        )


def validate_subprotocol(name: str) -> None:
    """Check the name of a WebSocket subprotocol (RFC 6455 section 4.1: an HTTP token)."""
    if not _HTTP_TOKEN.fullmatch(name):
        raise RejectedInput("subprotocol", "invalid characters", "Subprotocol is not an HTTP token")


def _check_length(input_name: str, noun: str, text: str | bytes, maximum: int) -> None:
    if not text:
        word = noun.split()[-1].lower()
        raise RejectedInput(input_name, f"empty {word}", f"{noun} cannot be empty")
    if len(text) > maximum:
        raise RejectedInput(
            input_name, "exceeds maximum length", f"{noun} exceeds maximum allowed length"
        )


def _has_forbidden_characters(token: str) -> bool:
    """Return whether ``token`` cannot stand in an HTTP header: anything but ASCII 0x20-0x7E."""
    return any(not " " <= c <= "~" for c in token)
