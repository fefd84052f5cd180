"""What was given for each option, and where: command line, ``--config`` file, environment.

The first of these that has an option counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from ...common.secret import Secret
from .argv import CommandLine
from .files import Files
from .ini import read_config
from .options import OPTIONS, Option
from .values import UsageError, Value, parse_value, printable

__all__ = ["DEFAULT_VERBOSITY", "Inputs", "Layer", "OptionValue", "Origin", "gather"]

DEFAULT_VERBOSITY: Final = 4
_SHOWN_PATH: Final = 200
_REFERENCE_PREFIX: Final = "AWSIOT_"
_CONFIG: Final = next(option for option in OPTIONS if option.name == "config")


class Layer(IntEnum):
    """Where a value comes from; a lower one goes before a higher one."""

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
    """Where one value comes from; ``str`` says it to people."""

    layer: Layer = Layer.DEFAULT
    detail: str = ""
    """The spelling of the option, file and line, the name of the variable."""

    def __str__(self) -> str:
        return f"{_NAMES[self.layer]} {self.detail}".rstrip()


@dataclass(frozen=True, slots=True)
class OptionValue:
    """The value of one option and where it was given."""

    option: Option
    value: Value = field(repr=False)
    origin: Origin

    @property
    def text(self) -> str:
        """The value of an option of kind TEXT."""
        assert isinstance(self.value, str)
        return self.value


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that was given."""

    given: Mapping[str, OptionValue]
    """Long name of the option -> what counts for it."""
    environ: Mapping[str, str] = field(repr=False, default_factory=dict)
    """The whole environment, for the variables of web proxies."""
    positional: int = 0
    """Arguments that belong to no option."""

    def get(self, name: str) -> OptionValue | None:
        """Return what was given for the option with this long name."""
        return self.given.get(name)

    def require(self, name: str) -> OptionValue:
        """Return what was given for an option.

        Raises:
            UsageError: nothing was.
        """
        given = self.given.get(name)
        if given is None:
            raise UsageError(f"the option '--{name}' is required but missing")
        return given

    @property
    def verbosity(self) -> int:
        """The value of ``--verbose``, 0 to 65535."""
        given = self.given.get("verbose")
        return int(given.value) if given is not None else DEFAULT_VERBOSITY

    def secrets(self) -> tuple[Secret, ...]:
        """Return the tokens among the values, whether valid or not."""
        return tuple(
            Secret(given.text)
            for given in self.given.values()
            if given.option.secret and given.value != "-"
        )

    def elsewhere(self, *names: str) -> str:
        """Return a hint that says which of these options are not on the command line."""
        parts = []
        for name in names:
            given = self.given.get(name)
            if given is not None and given.origin.layer is not Layer.COMMAND_LINE:
                parts.append(f"--{name} comes from the {given.origin}.")
        return " ".join(parts)


def gather(command: CommandLine, environ: Mapping[str, str], files: Files) -> Inputs:
    """Return what ``command``, the ``--config`` file and ``environ`` give.

    Variables named ``TAILRACE_...`` count as absent when they are empty, the
    ``AWSIOT_TUNNEL_...`` ones of the C++ command do not.

    Raises:
        UsageError: the file or a variable has a mistake.
        RejectedInput: the name of the file is no path.
    """
    given = {
        argument.option.name: OptionValue(
            argument.option, argument.value, Origin(Layer.COMMAND_LINE, argument.spelling)
        )
        for argument in command.arguments
    }
    config = given.get("config") or _from_environment(_CONFIG, environ)
    if config is not None:
        given["config"] = config
        for entry in read_config(config.text, files):
            origin = Origin(
                Layer.CONFIG_FILE, f"{printable(config.text, _SHOWN_PATH)}, line {entry.line}"
            )
            given.setdefault(entry.option.name, OptionValue(entry.option, entry.value, origin))
    for option in OPTIONS:
        if option.name not in given:
            found = _from_environment(option, environ)
            if found is not None:
                given[option.name] = found
    return Inputs(given, environ, command.positional)


def _from_environment(option: Option, environ: Mapping[str, str]) -> OptionValue | None:
    name = option.environment
    text = environ.get(name) if name else None
    if text is None or (not text and not name.startswith(_REFERENCE_PREFIX)):
        return None
    try:
        value = parse_value(option, text, option.name)
    except UsageError as error:
        hint = f"It comes from the environment variable {name}. {error.hint}"
        raise UsageError(str(error), hint.rstrip()) from None
    return OptionValue(option, value, Origin(Layer.ENVIRONMENT, name))
