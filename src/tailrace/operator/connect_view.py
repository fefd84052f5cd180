"""What a person sees of a tunnel that is in use: a live table, or one line without rich.

:class:`Picture` is what there is to see. In a pipe nothing is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from ..common.escaping import printable
from ..control.summary import size, waiting_text
from .progress import Style, TerminalLine, progress_line
from .state import HolderState, Phase
from .traffic import ServiceTraffic

if TYPE_CHECKING:
    from rich.live import Live

__all__ = ["LineView", "Picture", "Place", "TableView", "View", "make_view"]

_HEADINGS: Final = ("SERVICE", "ADDRESS", "CONNECTIONS", "SENT", "RECEIVED", "RATE")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service can be reached."""

    service: str
    address: str
    """``HOST:PORT``."""
    url: str = ""
    """For a browser, "" if the service is not known to be for one."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A tunnel and what goes through it."""

    label: str
    """The thing, or what else tells the tunnel."""
    state: HolderState
    started: float
    now: float
    round_trip: float | None = None
    """Seconds to the service and back."""
    places: tuple[Place, ...] = ()
    """Empty before connections can be made."""
    traffic: Mapping[str, ServiceTraffic] = field(default_factory=dict)
    outcome: str = ""
    """What has become of the tunnel, once it is over."""


def _headline(picture: Picture) -> list[tuple[str, Style]]:
    """Return how the tunnel is."""
    if picture.outcome:
        return [(f"{picture.label}: ", Style.NAME), (picture.outcome, Style.PLAIN)]
    if picture.places and picture.state.phase is Phase.RECONNECTING:
        text = f"reconnecting in {max(0, round(picture.state.retry_at - picture.now))} s"
        if picture.state.waiting:
            text += f", {waiting_text(picture.state.waiting)}"
        text += f": {picture.state.cause}"  # last, as it may be long, and the line is cut
        return [(f"{picture.label}: ", Style.NAME), (text, Style.BAD)]
    if picture.state.phase is not Phase.READY or not picture.places:
        return progress_line(picture.label, picture.state, picture.started, picture.now)
    line = [(f"{picture.label}: ", Style.NAME), ("device connected", Style.GOOD)]
    if picture.round_trip is not None:
        line.append((f" · round trip {picture.round_trip * 1000:.0f} ms", Style.PLAIN))
    return line


def _summary(picture: Picture) -> str:
    """Return the traffic of all services in a few words."""
    all_of_it = picture.traffic.values()
    count = sum(each.is_open for each in all_of_it)
    sent, received = sum(each.sent for each in all_of_it), sum(each.received for each in all_of_it)
    return (
        f"{count} connection{'' if count == 1 else 's'} · sent {size(sent)}, "
        f"received {size(received)}"
    )


def _table_rows(picture: Picture) -> list[tuple[str, ...]]:
    """Return a row for each service, in the order of the headings."""
    rows: list[tuple[str, ...]] = []
    for place in picture.places:
        traffic = picture.traffic.get(place.service, ServiceTraffic())
        rate = traffic.send_rate + traffic.receive_rate
        rows.append(
            (
                place.service,
                place.url or place.address,
                f"{traffic.is_open} of {traffic.opened}",
                size(traffic.sent),
                size(traffic.received),
                f"{size(rate)}/s" if rate >= 1 else "-",
            )
        )
    return rows


class View(Protocol):
    """Shows a tunnel to a person."""

    def show(self, picture: Picture) -> None:
        """Show how it is."""
        ...

    def note(self, label: str, text: str) -> None:
        """Say something that stays."""
        ...

    def close(self) -> None:
        """Leave the terminal to others; what was shown last stays."""
        ...


class LineView:
    """One line, and the addresses above it.

    With ``only_opening``, nothing more once there are addresses, which a program is told.
    """

    def __init__(self, line: TerminalLine, *, only_opening: bool = False) -> None:
        self._line = line
        self._only_opening = only_opening
        self._last: Picture | None = None
        self._has_places = False

    def show(self, picture: Picture) -> None:
        """Show how it is."""
        if picture.places and not self._has_places:
            self._has_places = True
            self._line.keep(
                progress_line(picture.label, picture.state, picture.started, picture.now)
            )
            for place in () if self._only_opening else picture.places:
                self._line.keep([(f"{place.service} ", Style.NAME), (_shown(place), Style.PLAIN)])
        if self._only_opening and picture.places:
            return
        self._last = picture
        self._line.show(self._text(picture))

    def note(self, label: str, text: str) -> None:
        """Say something that stays."""
        self._line.keep([(f"{label}: ", Style.NAME), (text, Style.PLAIN)])

    def close(self) -> None:
        """Leave the line as it is."""
        if self._last is not None and self._last.places:
            self._line.keep(self._text(self._last))
        self._line.clear()

    def _text(self, picture: Picture) -> list[tuple[str, Style]]:
        line = _headline(picture)
        if picture.state.phase is Phase.READY and picture.places:
            line.append((f" · {_summary(picture)}", Style.PLAIN))
        return line


class TableView:
    """A table, drawn by rich; one line before there is anything to tabulate."""

    def __init__(self, line: TerminalLine, stream: TextIO) -> None:
        from rich.console import Console

        self._line = line
        # Rich minds NO_COLOR and TERM itself.
        self._console = Console(file=stream, highlight=False)
        self._live: Live | None = None
        self._is_gone = False
        """Whether the terminal was closed."""

    def show(self, picture: Picture) -> None:
        """Show how it is."""
        if not picture.places:
            self._line.show(_headline(picture))
        elif not self._is_gone:
            with self._watched():
                self._show_table(picture)

    def _show_table(self, picture: Picture) -> None:
        if self._live is None:
            from rich.live import Live

            self._line.keep(
                progress_line(picture.label, picture.state, picture.started, picture.now)
            )
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(_drawn(picture), refresh=True)

    def note(self, label: str, text: str) -> None:
        """Say something that stays."""
        if self._live is None:
            self._line.keep([(f"{label}: ", Style.NAME), (text, Style.PLAIN)])
        elif not self._is_gone:
            with self._watched():
                self._console.print(_text([(f"{label}: ", Style.NAME), (text, Style.PLAIN)]))

    def close(self) -> None:
        """Leave the table as it is."""
        self._line.clear()
        if self._live is not None and not self._is_gone:
            with self._watched():
                self._live.stop()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Notice that there is no terminal any more; a tunnel has to be closed all the same."""
        try:
            yield
        except OSError:
            self._is_gone = True


def make_view(line: TerminalLine, stream: TextIO) -> View:
    """Return a table where rich is installed and the terminal has a cursor, else a line."""
    if not line.is_shown or line.is_dumb:
        return LineView(line)
    try:
        return TableView(line, stream)
    except ImportError:
        return LineView(line)


def _shown(place: Place) -> str:
    return place.url or place.address


_STYLES: Final = {
    Style.PLAIN: "",
    Style.NAME: "bold",
    Style.GOOD: "green",
    Style.BAD: "yellow",
}


def _text(line: list[tuple[str, Style]]) -> Any:
    """Return a line for rich, in which nothing is markup and nothing controls a terminal."""
    from rich.text import Text

    return Text.assemble(*((printable(text), _STYLES[style]) for text, style in line))


def _drawn(picture: Picture) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for heading in _HEADINGS:
        right = heading in ("SENT", "RECEIVED", "RATE")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for row in _table_rows(picture):
        table.add_row(*(Text(printable(cell)) for cell in row))
    head = _text(_headline(picture))
    head.no_wrap, head.overflow = True, "ellipsis"
    return Group(head, table)
