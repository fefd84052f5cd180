"""The controlling side of the load generators."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .errors import BenchError
from .processes import Process, Supervisor
from .site import Place, Site

__all__ = ["Generator", "python_path"]

_PATIENCE: Final = 120.0


def python_path() -> dict[str, str]:
    """Return the variables by which another Python finds this package."""
    return {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "PYTHONHASHSEED": "0"}


class Generator:
    """One load generator: a process that obeys commands, one at a time."""

    def __init__(self, supervisor: Supervisor, name: str, site: Site, place: Place) -> None:
        self.name = name
        command = site.command(place, [sys.executable, "-m", "bench.load"])
        self.process: Process = supervisor.spawn(name, command, python_path(), pipes=True)
        self._supervisor = supervisor
        self._pending = bytearray()

    def call(self, do: str, *, patience: float = _PATIENCE, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its answer.

        Raises:
            BenchError: it failed, took longer than ``patience`` seconds, or another
                process of the measurement has died meanwhile.
        """
        self.send(do, **arguments)
        return self.receive(do, patience=patience)

    def send(self, do: str, **arguments: Any) -> None:
        """Send a command; :meth:`receive` must follow."""
        self.process.check()
        self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    def receive(
        self,
        do: str,
        *,
        patience: float = _PATIENCE,
        meanwhile: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Return the answer to the command sent last; ``meanwhile`` is called now and then.

        Raises:
            BenchError: as :meth:`call`.
        """
        pipe = self.process.stdout
        deadline = time.monotonic() + patience
        while b"\n" not in self._pending:
            if not select.select([pipe], [], [], 0.2)[0]:
                self._supervisor.check()
                if meanwhile is not None:
                    meanwhile()
                if time.monotonic() > deadline:
                    raise BenchError(f"{self.name}: {do} took longer than {patience:g} s")
                continue
            piece = pipe.read(65_536)
            if not piece:
                self.process.popen.wait()
                self.process.check()
            self._pending += piece
        line, _, rest = bytes(self._pending).partition(b"\n")
        self._pending = bytearray(rest)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self._supervisor.check()
            raise BenchError(f"{self.name}: {answer['error']}")
        return answer
