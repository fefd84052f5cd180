"""What anybody may send the device agent: notifications, in a message, a line or a file."""

from __future__ import annotations

import json
from typing import Final

from hypothesis import strategies as st

from tailrace.agent.notification import MAX_PAYLOAD, parse_notification
from tailrace.agent.sources.documents import MAX_DOCUMENT, Lines, delivery_of, split_documents
from tailrace.errors import NotificationIgnored

from ..checks import cuts, is_one_line, pieces
from ..mutate import mutated, vary_bytes
from ..target import Target

__all__ = ["NOTIFICATION", "NOTIFICATION_DOCUMENTS"]

_TOKEN: Final = "AQGAAXhT1-secret-of-the-destination"
_PLAIN: Final = {
    "clientAccessToken": _TOKEN,
    "clientMode": "destination",
    "region": "eu-west-1",
    "services": ["SSH", "WEB"],
}
_TOLD: Final = {"tunnelId": "t-1", "expiresAt": 1_795_700_000, "tokenId": "k-1", "zz": {"a": [1]}}
_LONGEST_LINE: Final = 200

_DOCUMENTS: Final[tuple[object, ...]] = (
    _PLAIN,
    _PLAIN | _TOLD,
    _PLAIN | {"clientMode": "source"},
    {},
    [],
)
_PAYLOADS: Final = tuple(json.dumps(each).encode() for each in _DOCUMENTS)
_WORDS: Final = (
    *(b'"', b"{", b"}", b"[" * 3000, b"]", b",", b":", b"null", b"true", b"NaN", b"1e999"),
    *(b"\xef\xbb\xbf", b"\xff", b"\\ud800", b"\\u0000", b"\\n", b"9" * 5000, b"\n", b"\r\n"),
    *(b'"clientAccessToken": ', b'"services": ', b'"region": "../"', b'"expiresAt": -1'),
)


def _check_notification(payload: bytes) -> None:
    try:
        found = parse_notification(payload)
    except NotificationIgnored as error:
        assert is_one_line(str(error)), str(error)
        assert len(str(error)) < _LONGEST_LINE
        assert _TOKEN not in str(error), "a token is shown"
        raise
    assert len(payload) <= MAX_PAYLOAD
    token = found.access_token.reveal()
    assert token.isascii(), "this cannot be sent"
    assert not any(character.isspace() for character in token)
    assert len(token) < len(_TOKEN) or token not in repr(found), "a token is shown"
    assert len(set(found.services)) == len(found.services)
    assert all(map(is_one_line, (*found.services, *found.warnings)))
    again = parse_notification(json.dumps(found.document()).encode())
    assert again.document() == found.document()
    assert again.warnings == ()


NOTIFICATION: Final = Target(
    "notification",
    "a notification of a tunnel",
    mutated(_PAYLOADS, _WORDS),
    _check_notification,
    (NotificationIgnored,),
    _PAYLOADS,
    vary_bytes,
)

# -- in files and lines ---------------------------------------------------------------------------

_WRAPPED: Final = json.dumps({"thingName": "pump-7", "tunnelId": "t", "notification": _PLAIN})
_FILES: Final = (*_PAYLOADS, _WRAPPED.encode(), b"\n".join(_PAYLOADS), b"x" * (MAX_DOCUMENT + 1))


def _check_documents(value: tuple[bytes, list[int]]) -> None:
    content, sizes = value
    whole, cut = Lines(), Lines()
    expected = [*whole.feed(content), *whole.end()]
    found = [line for piece in pieces(content, sizes) for line in cut.feed(piece)]
    assert [*found, *cut.end()] == expected
    assert cut.dropped == whole.dropped
    for document in (*expected, *split_documents(content)):
        assert len(delivery_of(document).payload) <= MAX_PAYLOAD + 1


NOTIFICATION_DOCUMENTS: Final = Target(
    "notification-documents",
    "notifications in a file or in lines",
    st.tuples(mutated(_FILES, _WORDS), cuts()),
    _check_documents,
    (),
    tuple((each, [7]) for each in _FILES),
    lambda value, random: (vary_bytes(value[0], random), value[1]),
)
