"""Why a command of this room ends without success."""

from __future__ import annotations

from ..errors import TailraceError

__all__ = ["CommandFailed", "Terminated"]


class CommandFailed(TailraceError):
    """The command cannot go on; ``status`` is what to end with, ``None`` if nobody has said."""

    status: int | None = None

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Terminated(BaseException):
    """A signal asks the command to end; as with Ctrl-C, everything is cleaned up on the way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
