"""Cursors that tell nothing, and are good for one list only."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.service.errors import InvalidCursor
from tailrace.service.tunnels.cursors import Cursors

CURSORS = Cursors()


@given(st.integers(0, 2**64 - 1), st.lists(st.text(alphabet="ab*")))
def test_positions_come_back(position: int, purpose: list[str]) -> None:
    assert CURSORS.open(CURSORS.seal(position, purpose), purpose) == position


def test_nothing_can_be_told_from_them() -> None:
    cursors = [CURSORS.seal(position, ("a",)) for position in (1, 1, 2**63)]
    assert len(set(cursors)) == 3
    assert {len(cursor) for cursor in cursors} == {48}


def test_others_are_refused() -> None:
    cursor = CURSORS.seal(7, ("key", "thing"))
    content = urlsafe_b64decode(cursor)
    changed = [
        urlsafe_b64encode(bytes([*content[:at], content[at] ^ 1, *content[at + 1 :]])).decode()
        for at in range(len(content))
    ]
    for foreign in (*changed, cursor[:-4], cursor[:8], "", "x", "===", "\u00e9", "1" * 4096):
        with pytest.raises(InvalidCursor):
            CURSORS.open(foreign, ("key", "thing"))
    for purpose in (("other", "thing"), ("key",), ()):
        with pytest.raises(InvalidCursor):
            CURSORS.open(cursor, purpose)
    with pytest.raises(InvalidCursor):
        Cursors().open(cursor, ("key", "thing"))
