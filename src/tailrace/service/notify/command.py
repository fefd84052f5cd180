"""Notify through a command, for devices that are not reached over MQTT."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from typing import Final

from ..errors import SettingUnusable
from .base import Notification, NotifierDown, NotifyFailed

__all__ = ["CommandNotifier", "parse_command"]

_TIMEOUT: Final = 30.0

_INHERITED: Final = frozenset(
    ("HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER")
)
_INHERITED_LOCALE: Final = "LC_"


def parse_command(text: str) -> tuple[str, ...]:
    """Split a command line as a shell would; no shell runs it.

    Raises:
        SettingUnusable: it is empty, or a quote is not closed.
    """
    try:
        command = tuple(shlex.split(text))
    except ValueError as error:
        raise SettingUnusable(
            "{0} {text!r}: {error}", "notify_command", text=text, error=error
        ) from None
    if not command:
        raise SettingUnusable("{0} is empty: give a program with its arguments", "notify_command")
    return command


class CommandNotifier:
    """Runs ``command`` once for each notification, with a JSON object as standard input.

    The object has ``thingName``, ``tunnelId``, ``topic`` and ``notification``, which is
    what MQTT would publish. Arguments and environment hold none of it, because other users
    can read them. Of the environment of the service the command gets what programs need to run,
    and none of its secrets. Status 0 within ``timeout`` seconds means delivered. Standard
    output is discarded; standard error is the service's.
    """

    def __init__(self, command: Sequence[str], timeout: float = _TIMEOUT) -> None:
        self._command = tuple(command)
        self._timeout = timeout
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if name in _INHERITED or name.startswith(_INHERITED_LOCALE)
        }

    @property
    def name(self) -> str:
        """The program, without its arguments, which may hold credentials."""
        return f"command {os.path.basename(self._command[0])}"

    async def deliver(self, notification: Notification) -> None:
        """Run the command; tests are for things that listen, and no command knows them.

        Raises:
            NotifierDown: it could not be started.
            NotifyFailed: it failed, or took too long.
        """
        if notification.is_test:
            return
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=DEVNULL,
                start_new_session=True,
                env=self._environment,
            )
        except OSError as error:
            raise NotifierDown(f"{self._command[0]}: {error.strerror or error}") from None
        try:
            async with asyncio.timeout(self._timeout):
                # A command that ends without reading its input may still have succeeded.
                await process.communicate(_document(notification))
        except TimeoutError:
            raise NotifyFailed(f"it did not end within {self._timeout:g} seconds") from None
        finally:
            if process.returncode is None:
                await _kill(process)
        if process.returncode:
            raise NotifyFailed(f"it ended with status {process.returncode}")

    async def close(self) -> None:
        """Do nothing: no process outlives :meth:`deliver`."""


def _document(notification: Notification) -> bytes:
    document = {
        "thingName": notification.thing_name,
        "tunnelId": notification.tunnel_id,
        "topic": notification.topic,
        "notification": notification.document(),
    }
    return json.dumps(document).encode() + b"\n"


async def _kill(process: Process) -> None:
    """Kill the command and everything it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Not wait(): this also closes the transport of the pipe to standard input.
    await process.communicate()
