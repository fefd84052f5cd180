"""Numbers that the extension counts with Python: the same objects, whoever adds to them.

The classes that need more inherit from these. Where there is no extension, they are plain Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .extension import why_not

__all__ = ["Meter", "Tally", "TurnMeter"]

if TYPE_CHECKING or why_not():

    class Meter:
        """Bytes sent, and the mark at which the one who counts has to look."""

        __slots__ = ("mark", "sent")

        sent: int
        mark: int

    class TurnMeter:
        """What may still be done in a turn, and the mark below which its owner has to look."""

        __slots__ = ("heard", "left", "mark")

        left: int
        mark: int
        heard: bool

    class Tally:
        """Messages and bytes that have passed."""

        __slots__ = ("bytes", "messages")

        messages: int
        bytes: int

else:
    from .._counts import Meter, Tally, TurnMeter
