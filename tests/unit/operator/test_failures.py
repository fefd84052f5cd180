from __future__ import annotations

import signal

from tailrace.errors import TailraceError
from tailrace.operator.failures import CommandFailed, Terminated


def test_what_they_tell() -> None:
    failure = CommandFailed("no", 3)
    assert isinstance(failure, TailraceError)
    assert (str(failure), failure.status, CommandFailed("no").status) == ("no", 3, 4)
    # As KeyboardInterrupt, it is not caught with errors.
    assert not issubclass(Terminated, Exception)
    assert Terminated(signal.SIGTERM).number == signal.SIGTERM
