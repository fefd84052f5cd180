"""The processes of this machine that tell what they do, and what they say when they are asked.

What is read comes from others: of the same user, and for root of all users. So it is bounded in
size and time, and its texts are escaped before anybody sees them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from ..common.escaping import cut, escape
from ..control.documents import FORMAT
from ..control.places import (
    HAS_SOCKETS,
    SOCKET_NAME,
    connected,
    control_directory,
    remove_stale,
    socket_files,
)
from ..control.server import REQUEST
from ..errors import ConfigurationError
from .rates import rates_between
from .status_table import plain_lines, status_table

__all__ = ["Reading", "directories", "read_processes"]

_PATIENCE: Final = 2.0
"""Seconds that a process may take to answer."""
_LARGEST: Final = 4_194_304
"""Bytes of a document."""
_LARGEST_SUM: Final = 8 * _LARGEST
"""Bytes of the documents of all processes."""
_MOST: Final = 1000
"""Processes that are asked."""
_AT_ONCE: Final = 32
_LONGEST_TEXT: Final = 1000
_OF_ALL_USERS: Final = ("run/tailrace", "run/*/tailrace", "run/*/*/tailrace")
"""Where the sockets of root, of units and of sessions are."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one process has answered."""

    pid: int
    kind: str
    document: Mapping[str, Any] | None
    """``None`` if it has told nothing of use."""
    problem: str = ""
    """Why that is so."""


def directories(
    environment: Mapping[str, str], given: Iterable[Path] = (), root: Path = Path("/")
) -> list[Path]:
    """Return the directories to look in: those given; otherwise this user's, or for root all.

    Raises:
        ConfigurationError: this system has no unix sockets, or this user no directory for them.
    """
    if not HAS_SOCKETS:
        raise ConfigurationError("this system has no unix sockets to ask processes at")
    found = list(given)
    if found:
        return found
    if os.geteuid() == 0:
        for pattern in _OF_ALL_USERS:
            found += filter(_is_readable, islice(root.glob(pattern), _MOST))
    with suppress(ConfigurationError):
        found.append(control_directory(environment))
    if not found:
        raise ConfigurationError("this user has no directory for sockets: set XDG_RUNTIME_DIR")
    return list(dict.fromkeys(found))


def _is_readable(directory: Path) -> bool:
    """Return whether a directory can be read; any user may have put something else there."""
    with suppress(OSError):
        os.scandir(directory).close()
        return True
    return False


async def read_processes(places: Iterable[Path]) -> list[Reading]:
    """Ask the processes whose sockets are in some directories; in the order of their ids.

    Sockets of dead processes are removed where they are this user's.

    Raises:
        ConfigurationError: a directory belongs to another user, or cannot be read.
    """
    paths = [path for place in places for path in _sockets(place)]
    asking = _Asking()
    found = await asyncio.gather(*(asking.ask(path) for path in paths[:_MOST]))
    return sorted((each for each in found if each), key=lambda each: (each.pid, each.kind))


def _sockets(directory: Path) -> Iterator[Path]:
    try:
        owner = directory.stat().st_uid
        if owner == os.geteuid():
            remove_stale(directory)
        elif os.geteuid() != 0:
            raise ConfigurationError(
                f"{directory} belongs to another user (uid {owner}): only root may look there"
            )
        yield from socket_files(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"cannot read {directory}: {error.strerror}") from None


class _Asking:
    """Asks several processes, in bounds for all of them together."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._room = _LARGEST_SUM
        """Bytes that may still be answered."""

    async def ask(self, path: Path) -> Reading | None:
        """Return what a process says at its socket, ``None`` if it has ended."""
        match = SOCKET_NAME.fullmatch(path.name)
        assert match is not None
        pid, kind = int(match[1]), match[2]
        try:
            async with self._turns, asyncio.timeout(_PATIENCE):
                answer = await _answer(path)
            if len(answer) > self._room:
                raise ValueError("those before it have answered too much")
            self._room -= len(answer)
            return _reading(pid, kind, answer)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except TimeoutError:
            problem = "does not answer; it may be stopped or overloaded"
        except (OSError, ValueError) as error:
            problem = f"cannot be asked: {error}"
        return Reading(pid, kind, None, escape(cut(problem, _LONGEST_TEXT)))


async def _answer(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(sock=connected(path), limit=_LARGEST)
    try:
        writer.write(REQUEST)
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError:
        raise ValueError("it has answered nothing") from None
    except asyncio.LimitOverrunError:
        raise ValueError("its answer is too long") from None
    finally:
        writer.close()


def _reading(pid: int, kind: str, answer: bytes) -> Reading:
    """Return what an answer says.

    Raises:
        ValueError: nothing of use.
    """
    try:
        document = _escaped(json.loads(answer))
    except RecursionError:
        raise ValueError("its answer makes no sense") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("it is of another version")
    try:
        # All that is shown of it, so that none of that fails for the others.
        plain_lines(status_table([document], rates_between([document], [document])))
    except (AttributeError, KeyError, OverflowError, TypeError):
        raise ValueError("its answer makes no sense") from None
    return Reading(pid, kind, document)


def _escaped(value: Any) -> Any:
    """Return a value with all of its texts fit for a terminal."""
    match value:
        case str():
            return escape(cut(value, _LONGEST_TEXT))
        case list():
            return [_escaped(each) for each in value]
        case dict():
            return {
                escape(cut(name, _LONGEST_TEXT)): _escaped(each) for name, each in value.items()
            }
        case _:
            return value
