from collections.abc import Iterator

import pytest

from support.plugins.fixtures import service, session_service
from support.waiting import wait_until
from tailrace.sync.shared_loop import SHARED

__all__ = ["service", "session_service"]


@pytest.fixture(autouse=True)
def _no_loop_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: SHARED._loop is None, "the end of the shared loop")
    assert not SHARED._users
    assert not SHARED._blocks
