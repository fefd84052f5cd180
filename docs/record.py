"""Record `tailrace ssh` on a terminal: a real service, agent and SSH server, all on this machine.

    make docs-recording

types the commands of :data:`TYPED`, and writes docs/pictures/ssh.svg, a film of the terminal that
browsers play. The first picture that others show is the last one of the film.
"""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import ioctl
from html import escape
from itertools import groupby, pairwise
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Final

import pyte

from support.network.ports import free_port
from support.processes.child import clean_environment, process
from support.processes.sshd import sshd
from support.waiting import wait_until

__all__ = ["Frame", "film", "record"]

_COLUMNS: Final = 72
_ROWS: Final = 12
_LINE: Final = 19
_CHARACTER: Final = 8.4
_MARGIN: Final = 14
_KEY: Final = 0.055
"""Seconds between two keys."""
_READING: Final = 1.2
"""Seconds that a result stands before the next command is typed."""
_LAST: Final = 3.0
"""Seconds that the last picture stands."""
_SAME: Final = 0.03
"""Seconds within which what is written is one picture."""

_HERE: Final = "$ "
_THERE: Final = "pi@pump-7:~$ "

TYPED: Final = (
    (_HERE, "tailrace ssh pump-7"),
    (_THERE, "echo a shell on a device"),
    (_THERE, "exit"),
    (_HERE, "tailrace tunnel list --open"),
)
"""What is typed, behind which prompt."""

_COLOURS: Final = {
    "default": "#d8dee9",
    "green": "#8fce7e",
    "red": "#f08080",
    "brown": "#e6c46a",
    "cyan": "#7fc8d8",
    "blue": "#7fa8e8",
}
_BACKGROUND: Final = "#1f2430"

_Row = tuple[tuple[str, str, bool], ...]
"""Runs of characters with colour, and whether they are bold."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the terminal showed from a moment on, in seconds since the beginning."""

    at: float
    rows: tuple[_Row, ...]

    @property
    def text(self) -> str:
        """What a person reads."""
        return "\n".join("".join(text for text, _, _ in row).rstrip() for row in self.rows)


class _Recorder:
    """A command on a terminal whose pictures are kept."""

    def __init__(self, command: list[str], environment: Mapping[str, str], home: Path) -> None:
        self._screen = pyte.Screen(_COLUMNS, _ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._pid, self._master = pty.fork()
        if self._pid == 0:
            os.chdir(home)
            os.execvpe(command[0], command, environment)  # noqa: S606
        ioctl(self._master, TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        self._began = time.monotonic()
        self._prompted = -1
        """Row of the last prompt."""
        self.frames: list[Frame] = []

    def type(self, text: str, pause: float) -> None:
        """Press the keys one after the other, with a pause in seconds behind each."""
        for key in text:
            os.write(self._master, key.encode())
            self.watch(pause)

    def watch(self, seconds: float) -> None:
        """Keep what is shown in so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._master], [], [], left)[0]:
                return
            try:
                data = os.read(self._master, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                return
            self._stream.feed(data)
            self._keep()

    def wait_for_prompt(self, prompt: str) -> None:
        """Keep what is shown until a row below the last prompt is this one; a minute at most."""
        end = time.monotonic() + 60
        while not self._is_prompt(prompt):
            if time.monotonic() > end:
                raise TimeoutError("\n".join(self._screen.display))
            self.watch(0.05)
        self._prompted = self._screen.cursor.y

    def _is_prompt(self, prompt: str) -> bool:
        y = self._screen.cursor.y
        return y > self._prompted and self._screen.display[y].rstrip() == prompt.rstrip()

    def close(self) -> None:
        """End the shell."""
        os.write(self._master, b"\x04")
        os.waitpid(self._pid, 0)
        os.close(self._master)

    def _keep(self) -> None:
        at = time.monotonic() - self._began
        rows = tuple(_row(self._screen, y) for y in range(_ROWS))
        if self.frames and at - self.frames[-1].at < _SAME:
            self.frames[-1] = Frame(self.frames[-1].at, rows)
        elif not self.frames or self.frames[-1].rows != rows:
            self.frames.append(Frame(at, rows))


def _row(screen: pyte.Screen, y: int) -> _Row:
    cells = [screen.buffer[y][x] for x in range(_COLUMNS)]
    runs = groupby(cells, key=lambda cell: (cell.fg, cell.bold))
    return tuple(("".join(cell.data for cell in run), *style) for style, run in runs)


@contextmanager
def _device(directory: Path) -> Iterator[dict[str, str]]:
    """Run service, agent and SSH server; yield the environment of a user who may log in."""
    programs = directory / "bin"
    programs.mkdir()
    port = free_port()
    environment = clean_environment(
        HOME=str(directory),
        PATH=f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        XDG_RUNTIME_DIR=str(directory / "run"),
        XDG_STATE_HOME=str(directory / "state"),
        PS1=_HERE,
        TERM="xterm-256color",
    )
    (directory / "run").mkdir(mode=0o700)
    with sshd(directory, port, "pump-7.tunnel", directory):
        # The keys are those of this recording, and the shell of the device has a plain prompt.
        keys = f"-i {directory}/.ssh/id_ed25519 -o UserKnownHostsFile={directory}/.ssh/known_hosts"
        shell = shlex.quote(f"PS1='{_THERE}' exec bash --norc --noprofile -i")
        ssh = shutil.which("ssh")
        script = f'#!/bin/sh\nexec {ssh} -t -q {keys} "$@" {shell}\n'
        (programs / "ssh").write_text(script)
        (programs / "ssh").chmod(0o755)
        ports = ("--api-listen", "127.0.0.1:0", "--data-listen", "127.0.0.1:0")
        agent = ("agent", "run", "--thing-name", "pump-7", "--service", f"SSH={port}")
        with process("serve", ["tailrace", "serve", *ports], directory, environment) as service:
            wait_until(lambda: "service is ready" in service.log, "the service")
            with process("agent", ["tailrace", *agent], directory, environment) as device:
                wait_until(lambda: "waiting at " in device.log, "the agent")
                yield environment


def record(pace: float = 1.0) -> list[Frame]:
    """Return the pictures of a session in which the commands are typed.

    ``pace`` times the pauses of somebody who types and reads; with 0 there are none.
    """
    with tempfile.TemporaryDirectory() as name, _device(Path(name)) as environment:
        recorder = _Recorder(["bash", "--norc", "--noprofile"], environment, Path(name))
        try:
            for prompt, command in TYPED:
                recorder.wait_for_prompt(prompt)
                recorder.watch(pace * _READING)
                recorder.type(f"{command}\n", pace * _KEY)
            recorder.wait_for_prompt(TYPED[-1][0])
            recorder.watch(pace * _READING)
            frames = list(recorder.frames)
        finally:
            recorder.close()
    return frames


def film(frames: Sequence[Frame]) -> str:
    """Return a film of the pictures as SVG."""
    width = round(_COLUMNS * _CHARACTER) + 2 * _MARGIN
    height = _ROWS * _LINE + 2 * _MARGIN
    length = frames[-1].at + _LAST
    rows: dict[_Row, str] = {}
    pictures = []
    for number, frame in enumerate(frames):
        uses = []
        for y, row in enumerate(frame.rows):
            if "".join(text for text, _, _ in row).strip():
                name = rows.setdefault(row, f"r{len(rows)}")
                uses.append(f"<use href='#{name}' y='{y * _LINE}'/>")
        pictures.append(f"<g transform='translate(0 {number * height})'>{''.join(uses)}</g>")
    marks = [*(frame.at for frame in frames), length]
    steps = [
        f"{100 * start / length:.3f}%,{100 * end / length - 0.001:.3f}%"
        f"{{transform:translateY(-{number * height}px)}}"
        for number, (start, end) in enumerate(pairwise([0.0, *marks[1:]]))
    ]
    last = (len(frames) - 1) * height
    style = (
        f"@keyframes play{{{''.join(steps)}}}"
        f".film{{transform:translateY(-{last}px);animation:play {length:.2f}s step-end infinite}}"
        "@media (prefers-reduced-motion:reduce){.film{animation:none}}"
        "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre}"
    )
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
            f"viewBox='0 0 {width} {height}' role='img'>",
            "<title>tailrace ssh, recorded</title>",
            f"<style>{style}</style>",
            f"<defs>{''.join(_drawn(row, name) for row, name in rows.items())}</defs>",
            f"<rect width='{width}' height='{height}' rx='8' fill='{_BACKGROUND}'/>",
            f"<g class='film'>{''.join(pictures)}</g>",
            "</svg>",
            "",
        ]
    )


def _drawn(row: _Row, name: str) -> str:
    spans, x = [], float(_MARGIN)
    for text, colour, is_bold in row:
        if text.strip():
            weight = " font-weight='bold'" if is_bold else ""
            fill = _COLOURS.get(colour, _COLOURS["default"])
            length = len(text.rstrip()) * _CHARACTER
            spans.append(
                f"<tspan x='{x:.1f}' fill='{fill}'{weight} textLength='{length:.1f}'>"
                f"{escape(text.rstrip())}</tspan>"
            )
        x += len(text) * _CHARACTER
    return f"<text id='{name}' y='{_MARGIN + _LINE - 5}'>{''.join(spans)}</text>"


if __name__ == "__main__":
    picture = Path(__file__).with_name("pictures") / "ssh.svg"
    picture.write_text(film(record()), encoding="utf-8")
