"""What the event loop calls an error, and what is only a client that hangs up."""

import asyncio
import logging
from typing import Any

import pytest

from tailrace.service.loop_faults import LoopFaults
from tailrace.service.refusals import RefusalLog

HUNG_UP = {"message": "SSL handshake failed", "exception": ConnectionResetError}


@pytest.fixture
def faults() -> LoopFaults:
    return LoopFaults(RefusalLog(logging.getLogger("tailrace.test"), lambda: 0.0))


async def test_faults_of_clients_are_refusals(
    faults: LoopFaults, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    others: list[Any] = []
    loop.set_exception_handler(lambda _, context: others.append(context))
    faults.install(loop)
    loop.call_exception_handler(HUNG_UP)
    loop.call_exception_handler(HUNG_UP | {"exception": ConnectionResetError(104, "reset")})
    assert caplog.messages == [
        "TLS handshake failed: the client has hung up",
        "TLS handshake failed: [Errno 104] reset",
    ]
    bugs = [
        {"message": "SSL handshake failed", "exception": ValueError("bug")},
        {"message": "Task exception was never retrieved", "exception": ConnectionResetError()},
        {"message": "no exception"},
    ]
    for bug in bugs:
        loop.call_exception_handler(bug)
    assert others == bugs
    faults.remove()
    loop.call_exception_handler(HUNG_UP)
    assert others[-1] == HUNG_UP


async def test_without_another_handler(
    faults: LoopFaults, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    faults.install(loop)
    loop.call_exception_handler({"message": "a bug", "exception": ValueError("bug")})
    assert "a bug" in caplog.text
    assert "ValueError" in caplog.text
    faults.remove()
    assert loop.get_exception_handler() is None


async def test_a_handler_that_came_later_stays(faults: LoopFaults) -> None:
    loop = asyncio.get_running_loop()
    faults.install(loop)
    later = lambda *_: None  # noqa: E731
    loop.set_exception_handler(later)
    faults.remove()
    faults.remove()
    assert loop.get_exception_handler() is later
    loop.set_exception_handler(None)
