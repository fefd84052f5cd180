"""Run a local proxy as a process: event loop, signals, reporters."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace

from ...common.event_loop import loop_factory, raise_descriptor_limit
from ...common.log_floods import telling_floods
from ...common.queued_output import QueuedOutput
from ...common.redaction import register_secrets
from ...common.stray_exceptions import stray_exceptions_logged
from ...errors import AccessRefused, HandshakeAltered
from ...localproxy.client_token import client_token
from ...localproxy.proxy import LocalProxy
from ...localproxy.settings import ProxySettings
from .reporters import JSONReporter, LogReporter, ReadyFile, SystemdNotifier
from .settings import CommandSettings

__all__ = ["run"]

logger = logging.getLogger(__name__)


@stray_exceptions_logged()
def run(settings: CommandSettings) -> None:
    """Run a local proxy until its tunnel ends or a signal comes.

    SIGTERM and SIGINT end it in order, a second one at once.

    Raises:
        TailraceError: the proxy cannot start or go on.
    """
    raise_descriptor_limit()
    out = QueuedOutput(sys.stdout, _dropped_event)
    try:
        with asyncio.Runner(loop_factory=loop_factory(settings.loop)) as runner:
            runner.run(_serve(settings, out))
    finally:
        out.close()


def _dropped_event(count: int) -> str:
    """Return the event in the place of ``count`` events that nobody has read in time."""
    return f'{{"event":"events_dropped","count":{count}}}\n'


async def _serve(settings: CommandSettings, out: QueuedOutput) -> None:
    side = settings.proxy.side
    proxy = LocalProxy(_with_kept_token(settings))
    register_secrets(proxy.client_token)
    proxy.subscribe(LogReporter(side))
    if settings.json_events:
        proxy.subscribe(JSONReporter(out))
    ready = ReadyFile(settings.ready_file, side) if settings.ready_file else None
    if ready is not None:
        proxy.subscribe(ready)
    notify_socket = os.environ.get("NOTIFY_SOCKET")
    if notify_socket:
        proxy.subscribe(SystemdNotifier(notify_socket))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Windows loops have no signal handlers; there Ctrl-C cancels the task.
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, proxy.stop)
    try:
        with telling_floods(loop):
            await proxy.run()
    except (AccessRefused, HandshakeAltered) as error:
        logger.error(
            'Proxy server rejected web socket upgrade request: (HTTP/1.1 %d %s) "%s"',
            error.status,
            error.reason,
            error.body,
        )
        raise
    finally:
        if ready is not None:
            ready.remove()


def _with_kept_token(settings: CommandSettings) -> ProxySettings:
    """Give the proxy the client token that belongs to its access token in the state directory."""
    proxy = settings.proxy
    if proxy.client_token is not None or settings.state_dir is None:
        return proxy
    return replace(proxy, client_token=client_token(settings.state_dir, proxy.access_token))
