"""Standard output of a command: any text, whatever its encoding."""

from __future__ import annotations

import codecs
import io
from typing import Final, TextIO

__all__ = ["accept_any_text"]

_ESCAPING: Final = "tailrace-escaping"


def accept_any_text(stream: TextIO) -> None:
    """Let ``stream`` print what its encoding does not have, too.

    Bytes of paths and arguments that are no text, which Python holds as surrogates, come out as
    they went in, so that a shell finds the file; any other character as a Python escape.
    """
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error(_ESCAPING, _escape)
        stream.reconfigure(errors=_ESCAPING)


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return b"".join(map(_bytes_of, text)), error.end


def _bytes_of(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":
        return character.encode("ascii", "surrogateescape")
    return character.encode("ascii", "backslashreplace")
