import pytest

from tailrace.common.buffered import feed


@pytest.mark.parametrize("data", [b"", b"abc", b"abcd", b"abcdefghij"])
def test_all_of_it_arrives_in_order(data: bytes) -> None:
    buffer, received = bytearray(4), bytearray()

    def updated(size: int) -> None:
        received.extend(buffer[:size])

    feed(data, lambda _: memoryview(buffer), updated)
    assert received == data
