from __future__ import annotations

import errno
import re
import traceback

import pytest

from support.tunnel.engine import settings
from tailrace.errors import (
    AccessRefused,
    CertificateRejected,
    ConfigurationError,
    ConnectFailed,
    HandshakeAltered,
    ListenError,
    NotTunnelingService,
    OpenFailed,
    ServiceIdMismatch,
    TailraceError,
    TokenRotated,
    TunnelClosed,
)
from tailrace.library.advice import advised


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AccessRefused(403, "Forbidden", "previously used"), "takes it as client_token="),
        (TokenRotated("rotated"), "Start again with the new source token"),
        (NotTunnelingService("moved", login_page=""), "log in there with a browser"),
        (HandshakeAltered("altered", 400, "Bad", ""), "A proxy in between"),
        (NotTunnelingService("<html>"), "(endpoint=, region=)"),
        (CertificateRejected("untrusted"), "Add the CA that signed it with ca="),
        (ConnectFailed("refused"), "Check endpoint= or region=, and the network"),
        (ServiceIdMismatch("differ", service_ids=("SSH", "WEB")), "each of SSH, WEB"),
        (ListenError("taken", errno=errno.EADDRINUSE), "port 0 picks a free one"),
        (ListenError("forbidden", errno=errno.EACCES), "above 1023"),
        (ListenError("no such host"), "Check host and port"),
        (TunnelClosed("ended"), "Make another Tunnel"),
        (OpenFailed("no service 'SHH'"), "The services of the tunnel are SSH, WEB"),
    ],
)
def test_an_error_says_what_to_do(error: TailraceError, words: str):
    assert advised(error, settings(), ("SSH", "WEB")) is error
    assert words in error.advice
    assert not re.search(r"(^|[ (])-\w", error.advice), "an option"
    advised(error, settings(), ("SSH", "WEB"))
    assert "".join(traceback.format_exception(error)).count(error.advice) == 1


def test_where_the_text_says_all_there_is_no_advice():
    for error in (ConfigurationError("no endpoint"), OpenFailed("the limit is reached")):
        assert advised(error, settings()).advice == ""
        assert not hasattr(error, "__notes__")
