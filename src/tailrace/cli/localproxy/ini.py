"""The two INI formats of ``localproxy``: ``--config`` files and service maps.

``--config`` files (Boost.Program_options): ``NAME = VALUE`` with the long names of the
options; ``#`` starts a comment anywhere in a line; a ``[section]`` puts its name and a dot in
front of the names below it, which no option has.

Files of ``--config-dir`` (Boost.PropertyTree): ``ID = ADDRESS``; comment lines start with
``;`` or ``#``; what stands below a ``[section]`` is not a service id.

Both parsers are pure.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import Final

from ...common.addresses import LocalAddress, ServiceAddresses
from ...common.suggestions import did_you_mean
from ...errors import ConfigurationError
from ...localproxy.validation import validate_path, validate_service_id
from ...wire import Side
from .addresses import parse_local_address
from .files import read_text, regular_files
from .options import OPTIONS, Option, option_named
from .values import WHITESPACE, UsageError, Value, parse_value, printable

__all__ = [
    "Entry",
    "NotAnIniFile",
    "parse_config",
    "parse_services",
    "read_config",
    "read_services",
]

logger = logging.getLogger(__name__)

_SHOWN_PATH_LENGTH: Final = 200
_NAME: Final = re.compile(r"[a-z][a-z.-]{0,31}")
_KEY: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9._ -]{0,31}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One option that stands in a ``--config`` file."""

    option: Option
    value: Value = field(repr=False)
    line: int


class NotAnIniFile(ConfigurationError):
    """A file of ``--config-dir`` is not a map of services."""


def parse_config(text: str, where: str = "") -> tuple[Entry, ...]:
    """Return the options in the text of a ``--config`` file, in their order.

    ``where`` is the name of the file, for hints.

    Raises:
        UsageError: a line is no setting, an option is unknown or given twice, or a value
            is not of the option's kind. Nothing but names of options is repeated.
    """
    entries: dict[str, Entry] = {}
    section = ""
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.partition("#")[0].strip(WHITESPACE)
        hint = f"{printable(where)}, line {number}" if where else f"line {number}"
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].rstrip(".") + "."
        elif line:
            name, equals, value_text = (part.strip(WHITESPACE) for part in line.partition("="))
            if not equals:
                raise UsageError(
                    f"the options configuration file contains an invalid line{_shown_line(line)}",
                    f"{hint}: expected NAME = VALUE.",
                )
            option = option_named(name) if not section else None
            if option is None:
                key = _shown_key(section + name, value_text)
                meant = did_you_mean(section + name, (option.name for option in OPTIONS))
                raise UsageError(f"unrecognised option{key}", f"{hint}. {meant}".rstrip(". "))
            if name in entries and not option.last_wins:
                raise UsageError(f"option '{name}' cannot be specified more than once", hint)
            value = _value(option, value_text, hint)
            entries.pop(name, None)
            entries[name] = Entry(option, value, number)
    return tuple(entries.values())


def _value(option: Option, text: str, hint: str) -> Value:
    try:
        return parse_value(option, text, option.name)
    except UsageError as error:
        raise UsageError(str(error), f"{hint}. {error.hint}".rstrip()) from None


def _shown_line(line: str) -> str:
    """Return the first word of a line for a message, if it can be no token."""
    word = re.split(r"[\s:]", line, maxsplit=1)[0]
    if not _NAME.fullmatch(word):
        return ""
    return f" '{word}'" if word == line else f" '{word} ...'"


def _shown_key(name: str, value: str) -> str:
    """Return a key for a message, unless it is rather a token that ends in ``=``."""
    is_key = _KEY.fullmatch(name) and value and not value.startswith("=")
    return f" '{name}'" if is_key or _NAME.fullmatch(name) else ""


def read_config(path: str) -> tuple[Entry, ...]:
    """Return the options in the ``--config`` file at ``path``.

    Raises:
        RejectedInput: the path is not one.
        UsageError: the file cannot be read, or see :func:`parse_config`.
    """
    validate_path(path)
    try:
        text = read_text(path)
    except OSError as error:
        raise UsageError(
            f"can not read options configuration file '{printable(path)}'",
            f"{error.strerror or error}.",
        ) from None
    return parse_config(text, path)


def parse_services(text: str, side: Side, *, strict: bool = True) -> dict[str, LocalAddress]:
    """Return the services in the text of a file of ``--config-dir``.

    Names that cannot be service ids are left out, with a warning. So are addresses that
    are not valid, unless ``strict``.

    Raises:
        NotAnIniFile: a line is no entry, or a name is given twice.
        ConfigurationError: ``strict``, and an address is not valid.
    """
    services: dict[str, LocalAddress] = {}
    for where, name, value in _service_entries(text):
        try:
            validate_service_id(name)
        except ConfigurationError as error:
            logger.warning("%s of a service map is ignored: %s", where, error)
            continue
        try:
            services[name] = parse_local_address(value, side)
        except ConfigurationError as error:
            if strict:
                raise ConfigurationError(f"{where}: {error}") from None
            logger.warning("%s of a service map is ignored: %s", where, error)
    return services


def _service_entries(text: str) -> list[tuple[str, str, str]]:
    """Return line, name and value of each entry."""
    entries: dict[str, tuple[str, str, str]] = {}
    sections: set[str] = set()
    section = ""
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip(WHITESPACE)
        where = f"line {number}"
        if not line or line[0] in ";#":
            continue
        if line[0] == "[":
            name, bracket, _ = line[1:].partition("]")
            if not bracket or name in sections:
                raise NotAnIniFile(f"{where}: the section has no ']' or is a duplicate")
            sections.add(name)
            section = f"{name.strip(WHITESPACE)}."
            continue
        name, equals, value = (part.strip(WHITESPACE) for part in line.partition("="))
        if not equals or not name:
            raise NotAnIniFile(f"{where}: expected ID = ADDRESS")
        name = section + name
        if name in entries:
            raise NotAnIniFile(f"{where}: duplicate name")
        entries[name] = where, name, value
    return list(entries.values())


def read_services(directory: str, side: Side, *, strict: bool) -> ServiceAddresses:
    """Return the services in all files below ``directory``; the first file with an id counts.

    Files in another format are skipped with a warning, as are addresses that are not
    valid unless ``strict``.

    Raises:
        ConfigurationError: ``strict``, and an address is not valid.
    """
    services: dict[str, LocalAddress] = {}
    for path in regular_files(directory):
        name = printable(path, _SHOWN_PATH_LENGTH)
        try:
            found = parse_services(read_text(path), side, strict=strict)
        except (OSError, NotAnIniFile) as error:
            cause = error.strerror if isinstance(error, OSError) else error
            logger.warning("Fail to parse %s: %s. Continue to the next file.", name, cause)
            continue
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}, {error}") from None
        logger.info("Service ids in %s: %s", name, ", ".join(found) or "none")
        services = {**found, **services}
    return services
