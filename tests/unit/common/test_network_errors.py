"""Errors of the network in words."""

from __future__ import annotations

import errno
import socket

import pytest

from tailrace.common.network_errors import network_error_text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "Connection refused"),
        (ConnectionResetError(), "Connection reset by peer"),
        (socket.gaierror(socket.EAI_NONAME, "Name not known"), "Name not known"),
        (socket.gaierror("odd"), "odd"),
        (ValueError("a reason"), "a reason"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_words_for_errors(error: BaseException, text: str) -> None:
    assert network_error_text(error) == text
