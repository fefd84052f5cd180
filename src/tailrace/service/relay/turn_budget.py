"""How much one link may do in one turn of the event loop.

All tunnels share one thread. A single read may bring thousands of tiny frames and
messages, whose number takes time, not their bytes: if they were handled all at once, a
flood from one client would make every other tunnel wait. So each link has a budget for
each turn of the loop, about a millisecond's worth. What exceeds it is appended to the
link's backlog, which costs next to nothing, and handled in later turns; in between, the
loop serves the other links.

The unit is a message that is recognised and passed on with its neighbours; everything
else costs in proportion to the time it takes. Three invariants hold:

* Order is kept: while there is a backlog, everything received goes to its end.
* A backlog stays small: a link that has overdrawn its budget is not read until the
  backlog is gone, so that it holds little more than one read has brought.
* No link starves: the backlog shrinks in every turn, and without one the link is read
  again in the next turn.

A link has one budget. :class:`~.client_link.ClientLink` spends it on control frames and
renews it, :class:`~.relay_end.RelayEnd` spends it on data frames and their messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ...common.counts import TurnMeter

__all__ = ["FRAME_COST", "FULL_BUDGET", "JUDGED_COST", "LOW_BUDGET", "ROUTED_COST", "TurnBudget"]

FULL_BUDGET: Final = 1024
"""What a link may spend in one turn."""

LOW_BUDGET: Final = FULL_BUDGET // 2
"""Below this, the budget is renewed in the next turn; a link that moves large messages does
not ask for one with every read."""

FRAME_COST: Final = 8
"""Cost of a frame, whatever it holds."""

JUDGED_COST: Final = 8
"""Cost of a message that is not recognised and has to be decoded."""

ROUTED_COST: Final = 32
"""Additional cost of a message that travels alone, is answered or dropped."""


_NEVER: Final = -(2**62)
"""A mark that no budget reaches."""


class TurnBudget(TurnMeter):
    """The budget of one link. Spend it by taking from :attr:`left`, which may go below zero.

    When it has gone below :attr:`mark`, call :meth:`note_low`.
    """

    __slots__ = ("_turn_asked",)

    def __init__(self) -> None:
        self.left = FULL_BUDGET
        """What may still be spent in this turn."""
        self.mark = LOW_BUDGET
        self.heard = True
        """Whether anything has come since someone set this to false."""
        self._turn_asked = False

    def note_low(self) -> bool:
        """Lower the mark; return whether the budget is overdrawn, so that the link is not read."""
        overdrawn = self.left <= 0
        self.mark = _NEVER if overdrawn else 1
        return overdrawn

    def backlog_gone(self) -> None:
        """Put the mark where it is while the link is read."""
        self.mark = LOW_BUDGET

    def ask_for_turn(self, turn: Callable[[], None]) -> None:
        """Have ``turn`` called in the next turn of the loop, once; it must :meth:`renew`."""
        if not self._turn_asked:
            self._turn_asked = True
            asyncio.get_running_loop().call_soon(turn)

    def renew(self) -> None:
        """Begin a new turn."""
        self._turn_asked = False
        self.left = FULL_BUDGET
