"""Run a local proxy as a process: event loop, signals, reporters."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace

from ...common.event_loop import loop_factory, raise_descriptor_limit
from ...common.redaction import register_secrets
from ...localproxy.client_token import client_token
from ...localproxy.events import Subscriber
from ...localproxy.proxy import LocalProxy
from ...localproxy.settings import ProxySettings
from .reporters import JSONReporter, LogReporter, ReadyFile, SystemdNotifier
from .settings import CommandSettings

__all__ = ["run"]


def run(settings: CommandSettings) -> None:
    """Run a local proxy until its tunnel ends or a signal comes.

    SIGTERM and SIGINT end it in order, a second one at once.

    Raises:
        TailraceError: the proxy cannot start or go on.
    """
    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=loop_factory(settings.loop)) as runner:
        runner.run(_serve(settings))


async def _serve(settings: CommandSettings) -> None:
    proxy = _with_kept_token(settings)
    subscribers: list[Subscriber] = [LogReporter(proxy.side)]
    if settings.json_events:
        subscribers.append(JSONReporter(sys.stdout))
    ready = ReadyFile(settings.ready_file, proxy.side) if settings.ready_file else None
    if ready is not None:
        subscribers.append(ready)
    notify_socket = os.environ.get("NOTIFY_SOCKET")
    if notify_socket:
        subscribers.append(SystemdNotifier(notify_socket))
    running = LocalProxy(proxy, subscribers)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Windows loops have no signal handlers; there Ctrl-C cancels the task.
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, running.stop)
    try:
        await running.run()
    finally:
        if ready is not None:
            ready.remove()


def _with_kept_token(settings: CommandSettings) -> ProxySettings:
    """Give the proxy the client token that belongs to its access token in the state directory."""
    proxy = settings.proxy
    if proxy.client_token is not None or settings.state_dir is None:
        return proxy
    token = client_token(settings.state_dir, proxy.access_token)
    register_secrets(token)
    return replace(proxy, client_token=token)
