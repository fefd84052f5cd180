from __future__ import annotations

import pytest

from tailrace.operator.messages import MessageReader, encode_message


def test_lines_in_any_pieces() -> None:
    data = encode_message("failed", "no\n", status=3) + encode_message("ended", True)
    reader = MessageReader()
    found = [message for byte in data for message in reader.feed(bytes([byte]))]
    assert found == [{"failed": "no\n", "status": 3}, {"ended": True}]
    assert MessageReader().feed(data) == found


@pytest.mark.parametrize("data", [b"no\n", b"[]\n", b"\n", b"\xff\n", b"{" * 300_000])
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError):
        MessageReader().feed(data)
