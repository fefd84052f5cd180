"""How much one link may do in one turn of the event loop.

All tunnels share one thread. A single read may bring thousands of tiny frames and
messages, and what takes longest is not the bytes but their number: handled all at once,
the flood of one client would make every other tunnel wait for it. So each link has a
budget for each turn of the loop, about a millisecond's worth. What comes beyond it is
appended to the link's backlog, which costs next to nothing, and handled in later turns,
between which the loop serves everybody else.

The unit is a message that is recognised and passed on with its neighbours; everything
else costs what it takes in proportion. Three invariants hold:

* Order is kept: while there is a backlog, all that is received goes to its end.
* A backlog holds what a single read has brought at most, because a link that has
  overdrawn its budget is not read until the backlog is gone.
* A link that has spent its budget and has no backlog left goes on in the next turn.

There is one budget for a link: :class:`~.client_link.ClientLink` spends it on frames and
renews it, :class:`~.relay_end.RelayEnd` spends it on messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

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


class TurnBudget:
    """The budget of one link. Spend it by taking from :attr:`left`, which may go below zero."""

    __slots__ = ("_turn_asked", "left", "overdrawn")

    def __init__(self) -> None:
        self.left = FULL_BUDGET
        """What may still be spent in this turn."""
        self.overdrawn = False
        """Whether the link is not read until its backlog is gone."""
        self._turn_asked = False

    def ask_for_turn(self, turn: Callable[[], None]) -> None:
        """Have ``turn`` called in the next turn of the loop, once; it must :meth:`renew`."""
        if not self._turn_asked:
            self._turn_asked = True
            asyncio.get_running_loop().call_soon(turn)

    def renew(self) -> None:
        """Begin a new turn."""
        self._turn_asked = False
        self.left = FULL_BUDGET
