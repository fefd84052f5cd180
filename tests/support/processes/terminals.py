"""A command on a pseudo-terminal, as a person sees and uses it."""

from __future__ import annotations

import os
import pty
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from support.waiting import POLL, wait_until

__all__ = ["Terminal", "on_terminal"]


class Terminal:
    """A running command, whose standard streams are a terminal of its own."""

    def __init__(self, pid: int, master: int) -> None:
        self.pid = pid
        self.shown = ""
        """All that was written to the terminal so far."""
        self._master = master
        self._status: int | None = None

    def type(self, text: str) -> None:
        """Write as the keyboard does; ``\\x03`` is Ctrl-C."""
        os.write(self._master, text.encode())

    def wait_for(self, text: str, after: int = 0) -> None:
        """Wait until the text is shown, behind the first ``after`` characters."""
        wait_until(
            lambda: not self._read() or text in self.shown[after:], f"{text!r} on the terminal"
        )
        assert text in self.shown[after:], self.shown

    def end(self) -> int:
        """Return the exit status, as a shell does, once the command has ended."""
        wait_until(lambda: not self._read(), "the end of the command")
        if self._status is None:
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._status = code if code >= 0 else 128 - code
        return self._status

    def kill(self) -> None:
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.end()

    def _read(self) -> bool:
        """Read what is there; return whether there may be more."""
        if select.select([self._master], [], [], POLL)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                return False
            self.shown += data.decode(errors="replace")
        return True


@contextmanager
def on_terminal(
    command: Sequence[str], environment: Mapping[str, str], directory: Path
) -> Iterator[Terminal]:
    """A command on a terminal of its own, killed at the end if it still runs."""
    pid, master = pty.fork()
    if not pid:
        try:
            os.chdir(directory)
            os.execve(command[0], list(command), dict(environment))
        finally:
            os._exit(127)
    terminal = Terminal(pid, master)
    try:
        yield terminal
    finally:
        terminal.kill()
        os.close(master)
