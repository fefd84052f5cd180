"""What can be wrong with a network for a while, as context managers over middleboxes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from http import HTTPStatus
from typing import Final

from ..common.background_loop import BackgroundLoop
from ..errors import ConfigurationError
from .middlebox import Middlebox
from .refusal import refusing_service

__all__ = ["AWS_BANDWIDTH", "in_background", "refused", "silenced", "throttled"]

AWS_BANDWIDTH: Final = 800_000
"""Bytes a second that AWS documents for a tunnel."""

_STATUSES: Final = frozenset(each.value for each in HTTPStatus if each >= HTTPStatus.BAD_REQUEST)


@contextmanager
def in_background(
    loop: BackgroundLoop, context: AbstractAsyncContextManager[None]
) -> Iterator[None]:
    """Enter and leave a context on a loop of another thread."""
    stack = AsyncExitStack()
    loop.run(stack.enter_async_context(context))
    try:
        yield
    finally:
        loop.run(stack.aclose())


@asynccontextmanager
async def silenced(boxes: Sequence[Middlebox]) -> AsyncIterator[None]:
    """Let nothing through, and tell nobody."""
    flowing = [box for box in boxes if not box.swallows]
    for box in flowing:
        box.swallow()
    try:
        yield
    finally:
        for box in flowing:
            box.release()


@asynccontextmanager
async def throttled(boxes: Sequence[Middlebox], rate: float) -> AsyncIterator[None]:
    """Let ``rate`` bytes a second through each.

    Raises:
        ConfigurationError: that is not a rate.
    """
    if not rate > 0:
        raise ConfigurationError(f"{rate} bytes per second let nothing through: use silence()")
    before = [(box, box.rate) for box in boxes]
    for box in boxes:
        box.rate = rate
    try:
        yield
    finally:
        for box, was in before:
            box.rate = was


@asynccontextmanager
async def refused(
    boxes: Sequence[Middlebox], status: int | None, tls: ssl.SSLContext
) -> AsyncIterator[None]:
    """Refuse new connections, or their upgrade requests with a status of HTTP.

    Raises:
        ConfigurationError: the status does not refuse.
    """
    if status is None:
        accepting = [box for box in boxes if not box.refuses]
        for box in accepting:
            box.refuse()
        try:
            yield
        finally:
            for box in accepting:
                await box.accept()
        return
    if status not in _STATUSES:
        raise ConfigurationError(f"status {status} is no refusal: give one of HTTP, as 403 or 503")
    async with refusing_service(status, tls) as address:
        before = [(box, box.target) for box in boxes]
        for box in boxes:
            box.target = address
        try:
            yield
        finally:
            for box, target in before:
                box.target = target
