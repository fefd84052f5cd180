"""What a command does to reach a device: it has a tunnel for a while, and shows how far it is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ..common.user_directories import runtime_directory
from .failures import Terminated
from .progress import Style, TerminalLine, progress_line
from .sharing import Membership, fork_holder, join, share_name
from .state import Phase

if TYPE_CHECKING:
    from .wish import Wish

__all__ = ["reached", "terminable"]

_TICK: Final = 0.25
"""Seconds after which seconds that are shown may have changed."""
_UNSEEN: Final = 3600.0
_QUICK: Final = 0.5
"""Seconds for which a tunnel may be closing before anybody is told."""


@contextmanager
def reached(wish: Wish, line: TerminalLine) -> Iterator[Membership]:
    """Wait until the device is connected; in the block, connections can be made.

    The tunnel is closed at the end of the block, unless another command uses it, it is to be kept,
    or it was open before.

    Raises:
        CommandFailed: there is no tunnel, or it could not be closed.
        ConfigurationError: the socket of the tunnel cannot be.
    """
    started = time.monotonic()
    tunnel = wish.tunnel
    # What a later command would want to be the same, to be served by the same tunnel.
    wanted = (
        *(tunnel.thing, tunnel.services, tunnel.tunnel_id),
        *(tunnel.keep, tunnel.lifetime, tunnel.resume_timeout),
    )
    own = os.urandom(16).hex() if tunnel.new else ""
    name = share_name(repr((wanted, own)), os.environ)
    membership = join(runtime_directory(os.environ), name, fork_holder(wish))
    try:
        _wait(membership, tunnel.thing, line, started)
        yield membership
    finally:
        try:
            _leave(membership, tunnel.thing, line)
        finally:
            membership.close()


def _wait(membership: Membership, thing: str, line: TerminalLine, started: float) -> None:
    noted = -1
    """How many of the notes were seen: not those from before this command came."""
    try:
        while True:
            if noted >= 0:
                for note in membership.state.notes[noted:]:
                    line.keep([(f"{thing}: ", Style.NAME), (note, Style.PLAIN)])
                noted = len(membership.state.notes)
            shown = progress_line(thing, membership.state, started, time.monotonic())
            if membership.state.phase is Phase.READY:
                line.keep(shown)
                return
            line.show(shown)
            # A holder that says nothing at all is given up in time.
            is_short = line.is_shown or noted < 0
            is_news = membership.receive(_TICK if is_short else _UNSEEN)
            if noted < 0 and is_news:
                noted = len(membership.state.notes)
    except BaseException:
        line.clear()
        raise


def _leave(membership: Membership, thing: str, line: TerminalLine) -> None:
    since = time.monotonic()

    def show() -> None:
        now = time.monotonic()
        if membership.state.phase is Phase.CLOSING and now - since > _QUICK:
            line.show(progress_line(thing, membership.state, since, now))

    try:
        membership.leave(show)
    finally:
        line.clear()


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block in order: they raise :class:`Terminated` in it."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Terminated(number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            if previous[number] is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, end)
        yield
    finally:
        for number in numbers:
            signal.signal(number, previous[number])
