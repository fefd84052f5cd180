"""The limits of values, at and beyond their edges."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.refusals import refusal
from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.common.addresses import AddressError, parse_port
from tailrace.localproxy.validation import (
    RejectedInput,
    looks_like_file_name,
    rejected_port,
    validate_access_token,
    validate_address_characters,
    validate_client_token,
    validate_path,
    validate_region,
    validate_service_id,
    validate_subprotocol,
)


def validate_endpoint(text: str) -> None:
    validate_address_characters(text, "proxy-endpoint", "Proxy endpoint")


def validate_port(text: str) -> None:
    try:
        parse_port(text)
    except AddressError as error:
        raise rejected_port(error.text) from None


CHECKS: dict[str, Callable[[str], object]] = {
    "access-token": validate_access_token,
    "client-token": validate_client_token,
    "region": validate_region,
    "service-id": validate_service_id,
    "port": validate_port,
    "path": validate_path,
    "proxy-endpoint": validate_endpoint,
    "subprotocol": validate_subprotocol,
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("access-token", "a"),
        ("access-token", "a" * 4096),
        ("access-token", "!~" * 16),
        ("client-token", "a" * 32),
        ("client-token", "~ " * 64),
        ("region", "a" * 64),
        ("region", "us-gov-east-1"),
        ("service-id", "a"),
        ("service-id", "SSH-1:x_Y" + "a" * 119),
        ("port", "1"),
        ("port", "65535"),
        ("port", "000022"),
        ("path", "a"),
        ("path", "/" * 4096),
        ("path", "\udcff"),
        ("proxy-endpoint", "a" * 253),
        ("proxy-endpoint", "[::1]:443"),
        ("subprotocol", "aws.iot.securetunneling-3.0"),
    ],
)
def test_accepted(name: str, text: str) -> None:
    CHECKS[name](text)


@pytest.mark.parametrize(
    ("name", "text", "reason", "sentence"),
    [
        ("access-token", "", "empty token", "Access token cannot be empty"),
        (
            "access-token",
            "a" * 4097,
            "exceeds maximum length",
            "Access token exceeds maximum allowed length",
        ),
        (
            "access-token",
            "a\x7f",
            "contains control characters",
            "Access token contains invalid control characters",
        ),
        (
            "access-token",
            "a\0",
            "contains control characters",
            "Access token contains invalid control characters",
        ),
        (
            "access-token",
            "\udcff",
            "contains control characters",
            "Access token contains invalid control characters",
        ),
        (
            "access-token",
            "a\r",
            "contains control characters",
            "Access token contains invalid control characters; give the token alone, or name the"
            " file that holds it with --access-token-file",
        ),
        (
            "access-token",
            "a b",
            "contains whitespace",
            "Access token contains whitespace; give the token alone, or name the file that holds"
            " it with --access-token-file",
        ),
        (
            "client-token",
            "a" * 31,
            "invalid length (must be 32-128 chars)",
            "Client token must be between 32 and 128 characters",
        ),
        (
            "client-token",
            "a" * 129,
            "invalid length (must be 32-128 chars)",
            "Client token must be between 32 and 128 characters",
        ),
        (
            "client-token",
            "a" * 32 + "\t",
            "contains control characters",
            "Client token contains invalid control characters",
        ),
        ("region", "", "empty region", "Region cannot be empty"),
        ("region", "a" * 65, "exceeds maximum length", "Region exceeds maximum allowed length"),
        (
            "region",
            "us-east-1\n",
            "invalid format",
            "Region must contain only lowercase letters, numbers, and hyphens",
        ),
        (
            "region",
            "US",
            "invalid format",
            "Region must contain only lowercase letters, numbers, and hyphens",
        ),
        (
            "service-id",
            "a" * 129,
            "exceeds maximum length",
            "Service ID exceeds maximum allowed length",
        ),
        (
            "service-id",
            "a.b",
            "invalid characters",
            "Service ID must contain only alphanumeric characters, hyphens, underscores, and"
            " colons",
        ),
        (
            "service-id",
            "",
            "invalid characters",
            "Service ID must contain only alphanumeric characters, hyphens, underscores, and"
            " colons",
        ),
        ("port", "+1", "non-numeric characters", "Port must contain only digits"),
        ("port", "\u0661", "non-numeric characters", "Port must contain only digits"),
        ("port", "0", "out of valid range", "Port must be between 1 and 65535"),
        ("port", "65536", "out of valid range", "Port must be between 1 and 65535"),
        ("port", "2147483648", "value too large", "Port value is too large"),
        ("port", "9" * 5000, "value too large", "Port value is too large"),
        ("path", "", "empty path", "Path cannot be empty"),
        ("path", "/" * 4097, "exceeds maximum length", "Path exceeds maximum allowed length"),
        ("path", "a\0b", "contains null byte", "Path contains invalid null byte"),
        ("path", "\ud800", "invalid characters", "Path contains invalid characters"),
        ("proxy-endpoint", "", "empty endpoint", "Proxy endpoint cannot be empty"),
        (
            "proxy-endpoint",
            "a" * 254,
            "exceeds maximum length",
            "Proxy endpoint exceeds maximum allowed length",
        ),
        (
            "proxy-endpoint",
            "a_b",
            "invalid characters",
            "Proxy endpoint contains invalid characters",
        ),
        ("subprotocol", "", "invalid characters", "Subprotocol is not an HTTP token"),
        ("subprotocol", "a\r\nb", "invalid characters", "Subprotocol is not an HTTP token"),
    ],
)
def test_rejected(name: str, text: str, reason: str, sentence: str) -> None:
    with pytest.raises(RejectedInput) as caught:
        CHECKS[name](text)
    assert caught.value.input_name == name
    assert caught.value.reason == reason
    assert str(caught.value) == sentence
    assert exit_code_of(caught.value) is ExitCode.USAGE


@given(st.sampled_from(sorted(CHECKS)), st.text())
def test_any_text_is_accepted_or_rejected_without_being_repeated(name: str, text: str) -> None:
    said = refusal(CHECKS[name], text)
    assert len(text) < 12 or text not in said


@pytest.mark.parametrize(
    "text",
    [
        "/run/secrets/token",
        "./token",
        "../token",
        "~/token",
        "~user/token",
        "C:\\token",
        "\\\\host\\token",
        "file:token",
        "token.txt",
        "token.json",
        "src.pem",
    ],
)
def test_file_names(text: str) -> None:
    assert looks_like_file_name(text)


@pytest.mark.parametrize(
    "text",
    ["AQGAAXlKn0Tq/d8Vn3Cn+4Zf2b==", "a" * 100, "header.payload.signature", "/" + "a" * 255],
)
def test_tokens_are_no_file_names(text: str) -> None:
    assert not looks_like_file_name(text)
