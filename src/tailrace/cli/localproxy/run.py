"""Run a local proxy as a process: event loop, signals, reporters."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from ...errors import ConfigurationError, ExitCode
from ...localproxy.events import Subscriber
from ...localproxy.proxy import LocalProxy
from ...localproxy.settings import LoopChoice, ProxySettings
from .reporters import JSONReporter, LogReporter, ReadyFile, SystemdNotifier

__all__ = ["loop_factory", "run"]


def loop_factory(choice: LoopChoice) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop.

    ``auto`` takes uvloop where it is installed.

    Raises:
        ConfigurationError: uvloop was asked for and is not installed.
    """
    if choice is not LoopChoice.ASYNCIO:
        try:
            import uvloop
        except ImportError:
            if choice is LoopChoice.UVLOOP:
                raise ConfigurationError(
                    "--loop uvloop: uvloop is not installed; pip install uvloop"
                ) from None
        else:
            return uvloop.new_event_loop
    # On Windows the default loop knows no readiness callbacks.
    return asyncio.SelectorEventLoop


def run(settings: ProxySettings) -> ExitCode:
    """Run a local proxy until its tunnel ends or a signal comes.

    SIGTERM and SIGINT end it in order, a second one at once.

    Raises:
        TailraceError: the proxy cannot go on; its ``exit_code`` says what kind it is.
    """
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=loop_factory(settings.loop)) as runner:
        return runner.run(_serve(settings))


def _raise_descriptor_limit() -> None:
    """Let the process open as many files as the system allows: each connection is one.

    The usual limit of 1024 is there for programs that call select(2); this one does not.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems refuse what they report as the highest value.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: ProxySettings) -> ExitCode:
    subscribers: list[Subscriber] = [LogReporter(settings.side)]
    if settings.json_events:
        subscribers.append(JSONReporter(sys.stdout))
    ready = ReadyFile(settings.ready_file, settings.side) if settings.ready_file else None
    if ready is not None:
        subscribers.append(ready)
    notify_socket = os.environ.get("NOTIFY_SOCKET")
    if notify_socket:
        subscribers.append(SystemdNotifier(notify_socket))
    proxy = LocalProxy(settings, subscribers)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Windows loops have no signal handlers; there Ctrl-C cancels the task.
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, proxy.stop)
    try:
        return await proxy.run()
    finally:
        if ready is not None:
            ready.remove()
