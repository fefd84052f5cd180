"""How a command and the process that holds its tunnel talk: a JSON document a line, both ways.

Over a unix socket that only this user can reach. A line may bring a descriptor along: a socket
that is a connection through the tunnel.

=================  ========================================================================
From the command
-----------------  ------------------------------------------------------------------------
``open``           asks for a connection to a service, its value
``leave``          has no more use for the tunnel
From the holder
-----------------  ------------------------------------------------------------------------
``state``          a :class:`~.state.HolderState`, at first and whenever it changes
``connection``     the connection that was asked for; its socket comes with the line
``refused``        there is none, for this reason; with ``status``
``ended``          answers ``leave``: the command may end
``failed``         the tunnel has ended, for this reason; with ``status``. Nothing follows
=================  ========================================================================
"""

from __future__ import annotations

import json
from typing import Any, Final

__all__ = ["MessageReader", "encode_message"]

_LONGEST: Final = 256 * 1024
"""Bytes of a line. Both ends are ours, but a file name is no proof of that."""


def encode_message(name: str, value: Any, **others: Any) -> bytes:
    """Return a line."""
    return (json.dumps({name: value, **others}) + "\n").encode()


class MessageReader:
    """Splits what was received into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the messages that are complete now.

        Raises:
            ValueError: that is none.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST:
            raise ValueError("a line without an end")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a line is no object")
        return messages
