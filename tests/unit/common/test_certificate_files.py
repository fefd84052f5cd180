"""Words for what is wrong with certificates and keys."""

from __future__ import annotations

import errno
import ssl
from pathlib import Path

import pytest

from tailrace.common.certificate_files import certificate_error_text, refuse_passphrase


def test_a_file_without_certificates(tmp_path: Path) -> None:
    path = tmp_path / "junk.pem"
    path.write_text("junk")
    with pytest.raises(ssl.SSLError) as caught:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    assert certificate_error_text(caught.value) == "no certificate in PEM"
    assert certificate_error_text(caught.value, missing="nothing") == "nothing"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("KEY_VALUES_MISMATCH", "the key belongs to another certificate"),
        ("EE_KEY_TOO_SMALL", "the key is too short to be secure"),
        ("CA_MD_TOO_WEAK", "ca md too weak"),
        ("PEM_LIB", "no certificate in PEM"),
        (None, "no certificate in PEM"),
    ],
)
def test_what_openssl_says(reason: str | None, said: str) -> None:
    error = ssl.SSLError(1, "[X] whatever (_ssl.c:1)")
    if reason is not None:
        error.reason = reason
    assert certificate_error_text(error) == said


def test_what_the_system_says() -> None:
    error = OSError(errno.ENOENT, "No such file or directory", "x")
    assert certificate_error_text(error) == "No such file or directory"
    assert certificate_error_text(OSError("odd")) == "odd"


def test_a_passphrase_is_refused() -> None:
    with pytest.raises(PermissionError, match="the key is encrypted; decrypt it with"):
        refuse_passphrase()
