"""Printing what an encoding does not have."""

from __future__ import annotations

import io

import pytest

from tailrace.common.output import accept_any_text


@pytest.mark.parametrize(
    ("encoding", "text", "printed"),
    [
        ("utf-8", "grün \u20ac", "grün \u20ac".encode()),
        ("utf-8", "/x\udcff", b"/x\xff"),
        ("ascii", "/gr\udcc3\udcbcn", b"/gr\xc3\xbcn"),
        ("ascii", "grün \u20ac", b"gr\\xfcn \\u20ac"),
        ("latin-1", "grün \u20ac", b"gr\xfcn \\u20ac"),
        ("utf-8", "\ud800", b"\\ud800"),
    ],
)
def test_any_text_can_be_printed(encoding: str, text: str, printed: bytes) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    accept_any_text(stream)
    stream.write(text)
    stream.flush()
    assert raw.getvalue() == printed


def test_a_stream_that_has_no_encoding_stays_as_it_is() -> None:
    stream = io.StringIO()
    accept_any_text(stream)
    stream.write("\udcff")


def test_reading_is_no_matter_of_it() -> None:
    raw = io.BytesIO(b"\xff")
    stream = io.TextIOWrapper(raw, encoding="ascii")
    accept_any_text(stream)
    with pytest.raises(UnicodeDecodeError):
        stream.read()
