"""What was given for each option, and where: command line, ``--config`` file, environment.

The first of these that has an option counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Generic, TypeVar

from ...common.secret import Secret
from .argv import CommandLine
from .ini import read_config
from .options import OPTIONS, Option
from .values import UsageError, Value, parse_value, printable

__all__ = ["DEFAULT_VERBOSITY", "Inputs", "Layer", "OptionValue", "Origin", "gather"]

DEFAULT_VERBOSITY: Final = 4
_SHOWN_PATH: Final = 200
_REFERENCE_PREFIX: Final = "AWSIOT_"
_CONFIG: Final = next(option for option in OPTIONS if option.name == "config")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Layer(IntEnum):
    """Where a value comes from; a lower one takes precedence over a higher one."""

    COMMAND_LINE = 1
    CONFIG_FILE = 2
    ENVIRONMENT = 3
    SETTINGS_FILE = 4
    CONFIG_DIRECTORY = 5
    DEFAULT = 6


_NAMES: Final = {
    Layer.COMMAND_LINE: "command line",
    Layer.CONFIG_FILE: "configuration file",
    Layer.ENVIRONMENT: "environment variable",
    Layer.SETTINGS_FILE: "settings file",
    Layer.CONFIG_DIRECTORY: "configuration directory",
    Layer.DEFAULT: "default",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one value comes from; ``str`` is for people."""

    layer: Layer = Layer.DEFAULT
    detail: str = ""
    """The spelling of the option, file and line, the name of the variable."""

    def __str__(self) -> str:
        return f"{_NAMES[self.layer]} {self.detail}".rstrip()


@dataclass(frozen=True, slots=True)
class OptionValue(Generic[T_co]):
    """A value and where it was given."""

    value: T_co = field(repr=False)
    origin: Origin


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that was given."""

    given: Mapping[str, OptionValue[Value]]
    """Long name of the option -> what counts for it."""
    environ: Mapping[str, str] = field(repr=False, default_factory=dict)
    """The whole environment, for the variables of web proxies."""
    positional: int = 0
    """Arguments that belong to no option."""

    def get(self, name: str, kind: type[T]) -> OptionValue[T] | None:
        """Return what was given for an option, whose values are of the type ``kind``."""
        given = self.given.get(name)
        if given is None:
            return None
        assert isinstance(given.value, kind)
        return OptionValue(given.value, given.origin)

    def text(self, name: str) -> OptionValue[str] | None:
        """Return what was given for an option of kind TEXT or CHOICE."""
        return self.get(name, str)

    def require(self, name: str) -> OptionValue[str]:
        """Return what was given for an option of kind TEXT.

        Raises:
            UsageError: nothing was.
        """
        given = self.text(name)
        if given is None:
            raise UsageError(f"the option '--{name}' is required but missing")
        return given

    @property
    def verbosity(self) -> int:
        """The value of ``--verbose``, 0 to 65535."""
        given = self.get("verbose", int)
        return given.value if given is not None else DEFAULT_VERBOSITY

    def secrets(self) -> tuple[Secret, ...]:
        """Return the tokens among the values, whether valid or not."""
        found = [self.text(option.name) for option in OPTIONS if option.secret]
        return tuple(Secret(given.value) for given in found if given and given.value != "-")

    def elsewhere(self, *names: str) -> str:
        """Return a hint that says which of these options are not on the command line."""
        parts = []
        for name in names:
            given = self.given.get(name)
            if given is not None and given.origin.layer is not Layer.COMMAND_LINE:
                parts.append(f"--{name} comes from the {given.origin}.")
        return " ".join(parts)


def gather(command: CommandLine, environ: Mapping[str, str]) -> Inputs:
    """Return what ``command``, the ``--config`` file and ``environ`` give.

    Variables named ``TAILRACE_...`` count as absent when they are empty, the
    ``AWSIOT_TUNNEL_...`` ones of the C++ command do not.

    Raises:
        UsageError: the file or a variable has a mistake.
        RejectedInput: the name of the file is no path.
    """
    given = {
        argument.option.name: OptionValue(
            argument.value, Origin(Layer.COMMAND_LINE, argument.spelling)
        )
        for argument in command.arguments
    }
    config = given.get(_CONFIG.name) or _from_environment(_CONFIG, environ)
    if config is not None:
        given[_CONFIG.name] = config
        path = str(config.value)
        for entry in read_config(path):
            origin = Origin(Layer.CONFIG_FILE, f"{printable(path, _SHOWN_PATH)}, line {entry.line}")
            given.setdefault(entry.option.name, OptionValue(entry.value, origin))
    for option in OPTIONS:
        if option.name not in given:
            found = _from_environment(option, environ)
            if found is not None:
                given[option.name] = found
    return Inputs(given, environ, command.positional)


def _from_environment(option: Option, environ: Mapping[str, str]) -> OptionValue[Value] | None:
    name = option.environment
    text = environ.get(name) if name else None
    if text is None or (not text and not name.startswith(_REFERENCE_PREFIX)):
        return None
    try:
        value = parse_value(option, text, option.name)
    except UsageError as error:
        hint = f"It comes from the environment variable {name}. {error.hint}"
        raise UsageError(str(error), hint.rstrip()) from None
    return OptionValue(value, Origin(Layer.ENVIRONMENT, name))
