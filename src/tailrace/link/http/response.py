"""Responses of HTTP/1.x servers (RFC 9112): bytes in, response out. Pure.

Used for the upgrade, to which a service responds, and for CONNECT, to which a web proxy does.

websockets, which is always installed, has a parser too (``websockets.http11.Response.parse``).
It cannot take the place of this one, whose task is to show a user what a server or a middlebox
has to say, in whatever form it says that:

* it refuses a status line without a reason or with several blanks, a control character in it, a
  header line without a colon or with a name that is no token, and a line longer than 8 KiB;
* it returns no response before the body is complete, up to 1 MiB, and nothing of a body that ends
  early or goes on for ever, whereas a refusal counts as soon as its head is there, and 4 KiB of
  its text are enough;
* it refuses a body whose coding, length or chunks it does not understand;
* it takes 1 MB of memory that a local proxy on picows does not need otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from ...common.redaction import is_unmistakable
from ...common.secret import Secret
from ...errors import RemoteProtocolError

__all__ = ["MAX_BODY", "MAX_HEAD", "Response", "ResponseReader", "scrub"]

MAX_HEAD: Final = 16 * 1024
"""Bytes of status line and header fields that a response may have."""

MAX_BODY: Final = 4 * 1024
"""Bytes of a body that are waited for."""

_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
"""Some web proxies leave out the carriage returns; RFC 9112 section 2.2 lets us read them."""
_PROTOCOL: Final = b"HTTP/1."
_STATUS_LINE: Final = re.compile(r"HTTP/1\.[01] +(\d{3})(?: +(.*))?", re.ASCII)
_SWITCHING: Final = 101
_PARTIAL: Final = 4
_PASSING: Final = {408, 425, 429}


def scrub(text: str, secrets: Iterable[Secret], *, cut: bool = True) -> str:
    """Return text of the other side as one line, without secrets and control characters.

    A server may quote the token it refuses, which is cut out. A secret that may as well be a word
    of the text is not: the gap would tell. Nothing of such a text is returned, as if there were
    none.

    ``cut`` says that the text may go on beyond what was read, so that its end may be the beginning
    of a quoted secret.
    """
    hidden = [each.reveal() for each in secrets if each.reveal().strip()]
    line = _one_line(text)
    for word in (each for each in hidden if not is_unmistakable(each)):
        # A page may have another kind of blank, or several, where a password has one.
        for form, where in ((word, text), (_one_line(word), line)):
            if form in where or (cut and _ends_within(where, form)):
                return ""
    return _one_line(_without(text, filter(is_unmistakable, hidden), cut))


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _ends_within(text: str, secret: str) -> int:
    """Return how many characters of a secret end the text, 0 if they are too few to tell."""
    for length in range(min(len(secret) - 1, len(text)), _PARTIAL - 1, -1):
        if text.endswith(secret[:length]):
            return length
    return 0


def _without(text: str, secrets: Iterable[str], cut: bool) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, repr(Secret(secret)))
        length = _ends_within(text, secret) if cut else 0
        if length:
            text = text[:-length] + repr(Secret(secret))
    return text


@dataclass(frozen=True, slots=True)
class Response:
    """One response, as the other side sent it: nothing in it is scrubbed."""

    status: int
    reason: str
    fields: Mapping[str, list[str]]
    """Name of a header field in lower case -> its values, in order."""
    body: bytes = b""
    """The body, or as much of it as was read, at least its first :data:`MAX_BODY` bytes."""
    leftover: bytes = b""
    """Bytes behind a response after which the connection speaks another protocol."""
    cut: bool = False
    """Whether the body goes on beyond what was read."""

    def shown_reason(self, secrets: Iterable[Secret]) -> str:
        """Return the reason for people: the standard one if this one cannot be shown."""
        reason = scrub(self.reason, secrets, cut=False)
        if self.reason and not reason and self.status in set(HTTPStatus):
            return HTTPStatus(self.status).phrase
        return reason

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later (5xx; RFC 9110, RFC 8470 and RFC 6585)."""
        return self.status >= 500 or self.status in _PASSING

    @property
    def retry_after(self) -> float:
        """Seconds to wait before the next request (RFC 9110 section 10.2.3), 0 if none are named.

        The other form of the field, a date, counts as none: clocks differ.
        """
        text = "".join(self.values("retry-after"))
        return float(text[:10]) if text.isascii() and text.isdigit() else 0.0

    def values(self, name: str) -> list[str]:
        """Return all header fields of one name, in order."""
        return self.fields.get(name, [])

    def tokens(self, name: str) -> set[str]:
        """Return the elements of a comma-separated field, in lower case."""
        return {part.strip().lower() for each in self.values(name) for part in each.split(",")}


class ResponseReader:
    """Collects the response to one request, in pieces of any size."""

    __slots__ = ("_buffer", "_head", "_method", "_secrets")

    def __init__(self, method: str, secrets: Iterable[Secret] = ()) -> None:
        """Begin with an empty buffer.

        Args:
            method: of the request; where the response ends depends on it (RFC 9112 section 6.3).
            secrets: what no error text may show.
        """
        self._method = method
        self._secrets = tuple(secrets)
        self._buffer = bytearray()
        self._head: Response | None = None

    def feed(self, data: bytes) -> Response | None:
        """Take the next bytes; return the response once it is complete, ``None`` until then.

        Interim responses (RFC 9110 section 15.2) are skipped.

        Raises:
            RemoteProtocolError: this is not a response of HTTP/1.x.
        """
        self._buffer += data
        while self._head is None:
            head = self._read_head()
            if head is None:
                return None
            if self._leaves_http(head.status):
                return replace(head, leftover=bytes(self._buffer))
            if head.status >= 200:
                self._head = head
        return self._read_body(self._head)

    def finish(self, cause: str) -> Response:
        """Return a response of which no more will come: the connection ended, or time ran out.

        Raises:
            RemoteProtocolError: not even its head is complete; the text is ``cause``, and
                whether anything had come.
        """
        if self._head is not None:
            body, complete = self._body(self._head)
            return replace(self._head, body=body, cut=not complete)
        middle = " (in the middle of its answer)" if self._buffer else ""
        raise RemoteProtocolError(f"{cause}{middle}")

    def _leaves_http(self, status: int) -> bool:
        return status == _SWITCHING or (self._method == "CONNECT" and 200 <= status < 300)

    def _read_head(self) -> Response | None:
        buffer = self._buffer
        if not _PROTOCOL.startswith(bytes(buffer[: len(_PROTOCOL)])):
            start = scrub(bytes(buffer[:32]).decode("latin-1"), self._secrets)
            raise RemoteProtocolError(f'the answer is not HTTP: "{start}"')
        end = _END_OF_HEAD.search(buffer)
        if (len(buffer) if end is None else end.start()) > MAX_HEAD:
            raise RemoteProtocolError(f"the head of the answer is longer than {MAX_HEAD} bytes")
        if end is None:
            return None
        head = self._parse_head(bytes(buffer[: end.start()]))
        size = end.end()
        del end  # it holds the buffer, which cannot shrink then
        del buffer[:size]
        return head

    def _parse_head(self, head: bytes) -> Response:
        lines = head.decode("latin-1").split("\n")
        first, *lines = [line.removesuffix("\r") for line in lines]
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            start = scrub(first[:64], self._secrets)
            raise RemoteProtocolError(f'the answer begins with "{start}"')
        fields: dict[str, list[str]] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.lower(), []).append(value.strip(" \t"))
        return Response(int(match[1]), match[2] or "", fields)

    def _read_body(self, head: Response) -> Response | None:
        body, complete = self._body(head)
        if complete or len(body) >= MAX_BODY or len(self._buffer) >= 2 * MAX_BODY:
            return replace(head, body=body, cut=not complete)
        return None

    def _body(self, head: Response) -> tuple[bytes, bool]:
        """Return the body as far as it is known, and whether that is all of it."""
        if head.status in (204, 304):
            return b"", True
        if "chunked" in head.tokens("transfer-encoding"):
            return _dechunk(bytes(self._buffer))
        length = _body_length(head)
        body = bytes(self._buffer[:length])
        return body, length is not None and len(body) >= length


def _body_length(head: Response) -> int | None:
    """Return the bytes of body announced; ``None``: until the connection ends."""
    lengths = set(head.values("content-length"))
    text = lengths.pop() if len(lengths) == 1 else ""
    return int(text[:10]) if text.isascii() and text.isdigit() else None


def _dechunk(data: bytes) -> tuple[bytes, bool]:
    """Undo chunked coding (RFC 9112 section 7.1) as far as the data goes."""
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        try:
            size = int(line.split(b";")[0], 16) if end else 0
        except ValueError:
            return body, True  # not chunked coding after all
        if not end:
            return body, False
        if size <= 0:
            return body, True
        body += data[:size]
        if len(data) < size + 2:
            return body, False
        data = data[size + 2 :]
