"""The file of the agent's services, in TOML, and its changes while the agent runs.

::

    [services]
    SSH = 22

    [services.WEB]
    target = "camera.local:80"
    allow = ["10.0.0.0/8"]
    max-connections = 8
    bandwidth = "800kB/s"

    [services."*"]
    target = "10.0.0.5:502"

The file is looked at every second, and read when its *signature* has changed: inode, mode, size and
times of change. It is read only when two looks in a row saw the same, so that one that is just
being written, or is missing for a moment while an editor replaces it, is not taken for what
it is to be. A new file that is not valid changes nothing. What is open when the map changes stays
open (:class:`tailrace.ServiceMap`).
"""

from __future__ import annotations

import asyncio
import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from ..common.escaping import LONGEST_LINE, cut, escape
from ..common.special_files import read_regular_file
from ..errors import ConfigurationError
from ..library.service_map import MIN_BANDWIDTH, ServiceMap, ServiceRule
from .service_map import check_services, describe_changes, parse_bandwidth, rule_of

__all__ = ["MAX_FILE_SIZE", "MapFile", "parse_map"]

_log = logging.getLogger(__name__)

MAX_FILE_SIZE: Final = 262_144
"""Bytes."""
_PERIOD: Final = 1.0
"""Seconds between two looks at the file."""
_SHOWN: Final = 64
_MAX_TEXT: Final = 300
"""Characters of a string: the longest host name with its port has fewer."""
_MAX_PORT: Final = 65_535
_MAX_CONNECTIONS: Final = 1_000_000
_KEYS: Final = ("target", "allow", "max-connections", "bandwidth")

_Signature = tuple[int, int, int, int, int]


# -- what is in it ----------------------------------------------------------------------------


def parse_map(content: bytes, name: str) -> dict[str, ServiceRule]:
    """Return the rules that the content of a file has; ``name`` stands for the file in errors.

    Raises:
        ConfigurationError: it is not valid; the text has file, table and key.
    """
    services = _document(content, name).get("services", {})
    if not isinstance(services, dict):
        raise ConfigurationError(f"{name}: services is {_kind(services)}, not a table")
    rules = {}
    for service_id, value in services.items():
        place = f"{name}: [services.{_key(service_id)}]"
        try:
            rules[service_id] = _rule(service_id, value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}: {error}") from None
    try:
        check_services(rules)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from None
    return rules


def _document(content: bytes, name: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ConfigurationError(f"{name} is nested too deeply") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name} is not UTF-8 text") from None
    except ValueError as error:
        text = escape(cut(str(error), 2 * _SHOWN))
        raise ConfigurationError(f"{name} is not valid TOML: {text}") from None
    for key in document:
        if key != "services":
            raise ConfigurationError(
                f"{name}: unknown key {_key(key)}: all stands in tables of [services]"
            )
    return document


def _rule(service_id: str, value: Any) -> ServiceRule:
    """Return the rule of a table, or of a target alone."""
    if not isinstance(value, dict):
        return rule_of(service_id, _target(value))
    for key in value:
        if key not in _KEYS:
            raise ConfigurationError(f"unknown key {_key(key)}: the keys are {', '.join(_KEYS)}")
    if "target" not in value:
        raise ConfigurationError("target is missing")
    return rule_of(
        service_id,
        _target(value["target"]),
        allow=_allow(value.get("allow")),
        max_connections=_max_connections(value.get("max-connections")),
        bandwidth=_bandwidth(value.get("bandwidth")),
    )


def _target(value: Any) -> str:
    if isinstance(value, str):
        return _bounded("target", value)
    if not _is_integer(value):
        raise ConfigurationError(f"target is {_kind(value)}, not a string or a port")
    if not 1 <= value <= _MAX_PORT:
        raise ConfigurationError(f"target is not in 1..{_MAX_PORT}")
    return str(value)


def _bounded(key: str, text: str) -> str:
    if len(text) > _MAX_TEXT:
        raise ConfigurationError(f"{key} has a string of more than {_MAX_TEXT} characters")
    return text


def _allow(value: Any) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigurationError('allow is not a list of strings, as ["10.0.0.0/8"]')
    return [_bounded("allow", each) for each in value]


def _max_connections(value: Any) -> int | None:
    if value is None:
        return None
    if not _is_integer(value):
        raise ConfigurationError(f"max-connections is {_kind(value)}, not an integer")
    if not 1 <= value <= _MAX_CONNECTIONS:
        raise ConfigurationError(f"max-connections is not in 1..{_MAX_CONNECTIONS}")
    return int(value)


def _bandwidth(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigurationError(f'bandwidth is {_kind(value)}, not a string as "800kB/s"')
    bandwidth = parse_bandwidth(value)
    if bandwidth < MIN_BANDWIDTH:
        raise ConfigurationError(f"bandwidth is less than {MIN_BANDWIDTH}B/s")
    return bandwidth


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    """Return what a value of TOML is called."""
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "an array",
        dict: "a table",
    }
    return names.get(type(value), "a date or a time")


def _key(text: str) -> str:
    """Return a key as it stands in a file."""
    shown = escape(cut(text, _SHOWN))
    is_bare = shown.isascii() and shown.replace("-", "").replace("_", "").isalnum()
    return shown if is_bare else f'"{shown}"'


# -- the file -----------------------------------------------------------------------------------


class MapFile:
    """Keeps a service map as its file says, with the rules of ``options`` put over it.

    Call :meth:`load` first. :meth:`watch` follows the file, and :meth:`reload` reads it at once.
    """

    def __init__(
        self, path: Path, services: ServiceMap, options: Mapping[str, ServiceRule]
    ) -> None:
        self._path = path
        self._services = services
        self._options = options
        self._signature: _Signature | None = None
        """That of the file when it was read last."""

    def load(self) -> None:
        """Read the file into the map.

        Raises:
            ConfigurationError: it cannot be read or is not valid; the map stays as it was.
        """
        # Before the content: a change in between is noticed by the next look.
        self._signature = _signature_of(self._path)
        rules = parse_map(_read(self._path), str(self._path))
        self._services.replace({**rules, **self._options})

    def reload(self) -> None:
        """Read the file again; log what has changed, or why nothing does."""
        before = self._services.rules
        try:
            self.load()
        except ConfigurationError as error:
            _log.error("the services stay as they were: %s", error)
            return
        changes = describe_changes(before, self._services.rules)
        _log.info("services: %s", cut(changes, LONGEST_LINE) or "unchanged")

    async def watch(self) -> NoReturn:
        """Read the file again each time that it has changed, until cancelled."""
        last = self._signature
        while True:
            await asyncio.sleep(_PERIOD)
            found = _signature_of(self._path)
            if found == last and found != self._signature:
                self.reload()
            last = found


def _signature_of(path: Path) -> _Signature | None:
    """Return a value that changes with a file, ``None`` when it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read(path: Path) -> bytes:
    try:
        return read_regular_file(path, MAX_FILE_SIZE)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
