"""Run the ssh of this machine through a tunnel.

How does ssh get into the tunnel? A listener on 127.0.0.1 could be used by every user of the machine
while it is open. A ProxyCommand that copies is one more process for each byte. So ssh is given a
descriptor (``ProxyUseFdpass``, since OpenSSH 6.5): a script that needs nothing but the standard
library fetches it from the process that holds the tunnel, and ends. What ssh reads and writes is
then the connection itself.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..common.single_file import single_file
from ..errors import ConfigurationError
from .failures import CommandFailed
from .host_names import host_name
from .sharing import Membership
from .state import HolderState, Phase

__all__ = ["NO_SSH", "explanation", "has_program", "run", "ssh_command"]

NO_SSH: Final = (
    "there is no ssh on this machine; install OpenSSH's client, in Debian openssh-client"
)
_SSH_FAILED: Final = 255
"""What ssh ends with when it, and not the remote command, has failed."""
_NEWS: Final = 0.5
"""Seconds to wait for the reason why a connection was cut."""
_HELPER: Final = Path(__file__).with_name("pass_socket.py")


def ssh_command(
    path: Path, thing: str, service: str, user: str | None, arguments: Sequence[str]
) -> list[str]:
    """Return a command that uses the tunnel whose holder is at ``path``.

    ``arguments`` are of ssh: options, and a command for the device behind them. What is set here
    goes before these and the user's configuration.
    """
    helper = [sys.executable, "-I", "-S", *_helper(), str(path), service]
    # ssh expands %, and lets the shell of the user exec it.
    proxy = shlex.join(helper).replace("%", "%%")
    name = host_name(thing, service)
    settings = {
        "ProxyCommand": proxy,
        "ProxyUseFdpass": "yes",
        "ProxyJump": "none",
        "HostKeyAlias": name,
        "CheckHostIP": "no",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    return ["ssh", *options, *(("-l", user) if user else ()), name, *arguments]


def _helper() -> list[str]:
    """Return how Python runs the helper: as a file, or out of the archive that has it."""
    archive = single_file()
    if archive is None:
        return [str(_HELPER)]
    load = f"import sys; sys.path.insert(0, {str(archive)!r})"
    return ["-c", f"{load}; from tailrace.operator.pass_socket import run; run()"]


def has_program(name: str) -> bool:
    """Return whether there is such a program; ``shutil`` loads slowly."""
    return any(os.access(os.path.join(each, name), os.X_OK) for each in os.get_exec_path())


def run(command: Sequence[str]) -> int:
    """Run ssh with the standard streams of this process; return its status, as a shell would.

    Meanwhile signals that ask this process to end go to ssh.

    Raises:
        ConfigurationError: there is no ssh.
    """
    with _forwarded_signals() as forward_to:
        try:
            # Python ignores these, and children would, too.
            ignored = [signal.SIGPIPE, signal.SIGXFSZ]
            child = os.posix_spawnp(command[0], list(command), os.environ, setsigdef=ignored)
        except FileNotFoundError:
            raise ConfigurationError(NO_SSH) from None
        forward_to(child)
        while True:
            _, status = os.waitpid(child, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status)
            # As ~^Z does; the shell looks at this process.
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)


@contextmanager
def _forwarded_signals() -> Iterator[Callable[[int], None]]:
    """Keep signals that end a process for a child; yields what is told which one it is."""
    child = 0
    kept: list[int] = []

    def forward(number: int, frame: object) -> None:
        if child:
            os.kill(child, number)
        else:
            kept.append(number)

    def forward_to(pid: int) -> None:
        nonlocal child
        child = pid
        for number in kept:
            os.kill(child, number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield forward_to
    finally:
        for number in numbers:
            signal.signal(number, previous[number])


def explanation(membership: Membership, status: int) -> str:
    """Return why ssh may have ended with this status; "" if neither tunnel nor device is why."""
    if status != _SSH_FAILED:
        return ""
    deadline = time.monotonic() + _NEWS
    try:
        membership.check()
        # The connection may be cut before the reason is known.
        while not _trouble(membership.state) and time.monotonic() < deadline:
            membership.receive(max(0.0, deadline - time.monotonic()))
    except CommandFailed as error:
        return str(error)
    return _trouble(membership.state)


def _trouble(state: HolderState) -> str:
    """Return why a connection may have ended, "" if nothing is known."""
    return state.refusal if state.phase is Phase.READY else state.cause
