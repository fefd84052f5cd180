"""What a person sees while waiting: one line on a terminal, rewritten in place.

:func:`progress_line` says what, and is pure; :class:`TerminalLine` puts it on the screen. In a pipe
nothing is shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Final, TextIO, TypeAlias

from ..common.escaping import printable
from ..control.summary import waiting_text
from .state import HolderState, Origin, Phase

__all__ = ["Line", "Style", "TerminalLine", "progress_line", "short_id"]

_PATIENCE: Final = 5.0
"""Seconds for which a device may take to come before that is called waiting."""
_USUAL_WIDTH: Final = 80
_MOST_ROWS: Final = 4
_ID_SHOWN: Final = 4
"""Characters of a tunnel's id."""


class Style(Enum):
    """How a piece of a line looks, as SGR parameters of ECMA-48."""

    PLAIN = ""
    NAME = "1"
    GOOD = "32"
    BAD = "33"


Line: TypeAlias = "list[tuple[str, Style]]"
"""Pieces of text."""


def progress_line(thing: str, state: HolderState, started: float, now: float) -> Line:
    """Return what to show of a tunnel to ``thing`` for which a command that ``started`` waits."""
    return [(f"{thing}: ", Style.NAME), *_body(state, started, now)]


def _body(state: HolderState, started: float, now: float) -> Line:
    if state.phase is Phase.CLOSING:
        return [(f"closing tunnel {short_id(state.tunnel_id)}", Style.PLAIN)]
    waited = now - state.waiting_since
    if state.phase is Phase.WAITING and (state.cause or waited >= _PATIENCE):
        return _nobody(state, int(waited))
    steps: Line = []
    if state.origin is None:
        steps.append(("opening a tunnel", Style.PLAIN))
    else:
        tunnel = f"tunnel {short_id(state.tunnel_id)} {state.origin.value}"
        steps.append((tunnel if state.tunnel_id else "source token", Style.PLAIN))
        if state.origin is Origin.OPENED:
            steps.append((" · notified", Style.PLAIN))
    match state.phase:
        case Phase.READY:
            steps.append((" · device connected", Style.GOOD))
            steps.append((f" ({max(0.0, now - started):.1f} s)", Style.PLAIN))
        case Phase.RECONNECTING:
            seconds = max(0, round(state.retry_at - now))
            again = f"again in {seconds} s" if seconds else "again now"
            steps.append((f" · {state.cause}; {again}", Style.BAD))
        case Phase.WAITING:
            steps.append((" · waiting for the device", Style.PLAIN))
        case _:
            pass
    return steps


def _nobody(state: HolderState, seconds: int) -> Line:
    """Say that the device does not come, or has gone."""
    hint = f" ({state.hint})" if state.hint else ""
    if state.cause:
        said = f"{state.cause} {seconds} s ago"
    elif state.origin is Origin.OPENED:
        said = f"notified {seconds} s ago, nobody connected"
    else:
        said = f"nobody connected for {seconds} s"
    closes = "closes the tunnel" if state.origin is Origin.OPENED else "ends this"
    if state.waiting:
        said += f", {waiting_text(state.waiting)}"
    return [(f"{said}{hint}.", Style.BAD), (f" Ctrl-C {closes}.", Style.PLAIN)]


def short_id(tunnel_id: str) -> str:
    """Return the beginning of a tunnel's id."""
    return f"{tunnel_id[:_ID_SHOWN]}…" if len(tunnel_id) > _ID_SHOWN else tunnel_id


def _first_word(line: Line) -> str:
    """Return what tells one step of a command from the next."""
    return line[1][0].split()[0]


class TerminalLine:
    """One line of a terminal that is written again and again; nothing where there is none."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str]) -> None:
        self._stream = stream
        self.is_shown = stream.isatty()
        """Whether somebody may see it."""
        self.is_dumb = environment.get("TERM", "") in ("", "dumb")
        """Whether the terminal has no cursor to move."""
        self._has_colors = not environment.get("NO_COLOR") and not self.is_dumb
        self._shown: Line = []

    def show(self, line: Line) -> None:
        """Replace what the line says."""
        if not self.is_shown or line == self._shown:
            return
        # A terminal without a cursor would get a line each second.
        if not self.is_dumb:
            self._write(f"{self._back()}{self._text(line)}")
        elif not self._shown or _first_word(line) != _first_word(self._shown):
            self._write("".join(text for text, _ in line) + "\n")
        self._shown = line

    def keep(self, line: Line) -> None:
        """Say something that stays, and go on below it."""
        if not self.is_shown:
            return
        text = "".join(self._styled(*piece) for piece in line)
        self._write(f"{text}\n" if self.is_dumb else f"{self._back()}{text}\n")
        self._shown = []

    def clear(self) -> None:
        """Remove the line."""
        if self.is_shown and self._shown and not self.is_dumb:
            self._write(self._back())
        self._shown = []

    def _back(self) -> str:
        """Return what removes the line, which may take several rows, and goes where it began."""
        length = sum(len(text) for text, _ in self._shown)
        rows = max(0, min(length, self._most()) - 1) // self._columns()
        up = f"\x1b[{rows}A" if rows else ""
        # Before the text, because behind a full row this would remove its last character.
        return f"{up}\r\x1b[J"

    def _text(self, line: Line) -> str:
        """Return the line, cut if it would take so many rows that it could not be rewritten."""
        room, found = self._most(), ""
        for text, style in line:
            found += self._styled(text if len(text) <= room else f"{text[: room - 1]}…", style)
            room -= len(text)
            if room <= 0:
                break
        return found

    def _most(self) -> int:
        return _MOST_ROWS * self._columns()

    def _columns(self) -> int:
        with suppress(OSError, ValueError):
            # A terminal may say that it has none.
            return os.get_terminal_size(self._stream.fileno()).columns or _USUAL_WIDTH
        return _USUAL_WIDTH

    def _styled(self, text: str, style: Style) -> str:
        shown = printable(text)
        if style is Style.PLAIN or not self._has_colors:
            return shown
        return f"\x1b[{style.value}m{shown}\x1b[0m"

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # the terminal has gone
            self.is_shown = False
