"""One session of real ssh whose shell counts, and answers what it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Shell", "ShellFault", "shell"]

_SCRIPT: Final = (
    "(i=0; while sleep 0.1; do i=$((i+1)); echo count $$ $i; done) &"
    " while read -r line; do echo said $line; done; kill $!"
)
"""For any shell: about ten times a second it counts, and what is typed is answered at once."""


class ShellFault(Exception):
    """The shell is another one, or has missed or repeated something."""


@dataclass(slots=True)
class Shell:
    """What the shell has said."""

    pid: int = 0
    """Of the shell; it must not change."""
    count: int = 0
    answers: int = 0
    longest_silence: float = 0.0
    fault: str = ""
    """Why the session is not what it should be; empty as long as it is."""

    def take(self, line: str) -> None:
        """Take a line.

        Raises:
            ShellFault: it is not the one that has to come next.
        """
        match line.split():
            case ["count", pid, number] if int(number) == self.count + 1 and (
                int(pid) == self.pid or not self.pid
            ):
                self.pid, self.count = int(pid), int(number)
            case ["said", number] if int(number) == self.answers + 1:
                self.answers += 1
            case _:
                raise ShellFault(
                    f"{line!r} behind count {self.count} of {self.pid}, {self.answers} answers"
                )


@asynccontextmanager
async def shell(port: int, home: Path) -> AsyncIterator[Shell]:
    """A session through the tunnel, typed into all the time."""
    key, hosts = home / ".ssh" / "id_ed25519", home / ".ssh" / "known_hosts"
    options = {
        "IdentityFile": key,
        "UserKnownHostsFile": hosts,
        "HostKeyAlias": "soak",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
    }
    process = await asyncio.create_subprocess_exec(
        *("ssh", "-F", "none", "-p", str(port)),
        *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
        *("127.0.0.1", _SCRIPT),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    session, loop = Shell(), asyncio.get_running_loop()
    tasks = [loop.create_task(job(process, session)) for job in (_listen, _type)]
    try:
        yield session
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _listen(process: asyncio.subprocess.Process, session: Shell) -> None:
    assert process.stdout is not None
    clock = asyncio.get_running_loop().time
    heard = clock()
    try:
        while line := await process.stdout.readline():
            session.take(line.decode())
            now = clock()
            session.longest_silence = max(session.longest_silence, now - heard)
            heard = now
        session.fault = f"ssh has ended with status {await process.wait()}"
    except ShellFault as error:
        session.fault = str(error)


async def _type(process: asyncio.subprocess.Process, session: Shell) -> None:
    """Say one number after the other, each when the one before was answered."""
    assert process.stdin is not None
    number = 0
    while True:
        if session.answers == number:
            number += 1
            process.stdin.write(f"{number}\n".encode())
        await asyncio.sleep(0.05)
