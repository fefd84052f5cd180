"""Clients that leave before TLS, told from faults of the loop."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from tailrace.service.loop_faults import early_leavers_counted

PORT = 7444


class Transport:
    def __init__(self, address: object) -> None:
        self._address = address

    def get_extra_info(self, name: str) -> object:
        return {"sockname": self._address}[name]


def leaver(address: object = ("127.0.0.1", PORT)) -> dict[str, Any]:
    return {
        "message": "SSL handshake failed",
        "exception": ConnectionResetError,
        "transport": Transport(address),
    }


@pytest.fixture
async def reported() -> list[str]:
    """What the loop's own handler is told."""
    messages: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: messages.append(context["message"]))
    return messages


async def test_leavers_are_counted_and_nothing_else(reported: list[str]) -> None:
    loop, counts = asyncio.get_running_loop(), Counter[str]()
    with early_leavers_counted(loop, {PORT}, counts):
        loop.call_exception_handler(leaver())
        loop.call_exception_handler({"message": "other", "exception": ConnectionResetError()})
        loop.call_exception_handler({"message": "none"})
        loop.call_exception_handler(leaver(("127.0.0.1", 1)))
        loop.call_exception_handler(leaver(None))
    assert counts == {"tls_not_finished": 1}
    assert reported == ["other", "none", *2 * ["SSL handshake failed"]]


async def test_without_a_handler(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    with early_leavers_counted(loop, {PORT}, Counter()):
        loop.call_exception_handler({"message": "something else"})
    assert loop.get_exception_handler() is None
    assert caplog.text.count("something else") == 1


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
)
async def test_any_order(reported: list[str], order: tuple[int, ...]) -> None:
    """Each counts its own for as long as it runs, and the handler before them is put back."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    counts = [Counter[str]() for _ in order]
    filters = [early_leavers_counted(loop, {port}, each) for port, each in enumerate(counts)]
    for each in filters:
        each.__enter__()
    ended: list[int] = []
    for number in order:
        for port in range(3):
            loop.call_exception_handler(leaver(("::1", port, 0, 0)))
        filters[number].__exit__(None, None, None)
        ended.append(number)
    assert loop.get_exception_handler() is before
    assert [each["tls_not_finished"] for each in counts] == [order.index(n) + 1 for n in range(3)]
    assert len(reported) == 3


async def test_a_handler_that_was_set_meanwhile_stays(reported: list[str]) -> None:
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    with early_leavers_counted(loop, {PORT}, Counter()):
        filtering = loop.get_exception_handler()
        assert filtering is not None

        def theirs(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            told.append(context)
            filtering(loop, context)

        loop.set_exception_handler(theirs)
    assert loop.get_exception_handler() is theirs
    loop.call_exception_handler(leaver())
    assert len(told) == 1
    assert reported == ["SSL handshake failed"]
