"""``tailrace.sync.connect``: a tunnel for as long as a block lasts, in a program that blocks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    contextmanager,
)
from datetime import timedelta

from .. import library
from ..aws import Secret
from ..library.settings import RESUME_TIMEOUT, DialectName
from .block import Block
from .client import Client, asynchronous
from .tunnel import SourceTunnel

__all__ = ["connect"]


def connect(
    thing: str | None = None,
    *,
    tunnel_id: str | None = None,
    services: Iterable[str] = (),
    reuse: bool = False,
    keep: bool = False,
    lifetime: timedelta | None = None,
    timeout: float | None = 30.0,
    client: Client | None = None,
    client_token: str | Secret | None = None,
    region: str | None = None,
    endpoint: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    dialect: DialectName | None = None,
    resume_timeout: float = RESUME_TIMEOUT,
) -> AbstractContextManager[SourceTunnel]:
    """Open a tunnel to a thing, wait for its device, and close the tunnel at the end of the block.

    This is :func:`tailrace.connect` for code that blocks. A tunnel that was opened is closed, too,
    when Ctrl-C interrupts anything: that may take as long as calls of the client may.

    Args:
        thing: the thing that is sent the destination's token; needs ``services``.
        tunnel_id, services, reuse, keep, lifetime: as for :func:`tailrace.connect`.
        timeout: seconds that each of connecting to the service and waiting for the device may take;
            ``None``: for ever.
        client: makes the calls; otherwise a :class:`Client` of its own does.
        client_token, region, endpoint, ca, dialect, resume_timeout: as for
            :func:`tailrace.connect`.

    Raises:
        ConfigurationError, TimedOut, ControlError, TailraceError: as :func:`tailrace.connect`.

    Example::

        with tailrace.sync.connect("pump-7", services=["SSH"]) as tunnel:
            print(tunnel.open_connection("SSH").readline())
    """
    manager = library.connect(
        thing,
        tunnel_id=tunnel_id,
        services=services,
        reuse=reuse,
        keep=keep,
        lifetime=lifetime,
        timeout=timeout,
        client=None if client is None else asynchronous(client),
        client_token=client_token,
        region=region,
        endpoint=endpoint,
        ca=ca,
        dialect=dialect,
        resume_timeout=resume_timeout,
    )
    return _connected(manager, client)


@contextmanager
def _connected(
    manager: AbstractAsyncContextManager[library.SourceTunnel], client: Client | None
) -> Iterator[SourceTunnel]:
    with ExitStack() as stack:
        if client is not None:
            stack.enter_context(client)
        block = Block(manager, "tunnel")
        yield SourceTunnel(stack.enter_context(block), block)
