"""Parse the command line the way the C++ command does.

The grammar is that of Boost.Program_options in its default "unix" style:
``--name value``, ``--name=value``, ``-nvalue``, ``-n value``, grouped switches,
unambiguous beginnings of long names, ``--`` before arguments that are no options.
Python's argparse differs from it in what may follow an option, in abbreviations and in
every message, so it is not used.

No message ever repeats a value or a long word: it could be a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ...common.suggestions import did_you_mean
from .options import OPTIONS, Option, option_named
from .values import UsageError, Value, parse_value, printable

__all__ = ["Argument", "CommandKind", "CommandLine", "parse_argv"]

_SHOWN_NAME_LENGTH: Final = 32
_BY_SHORT: Final = {option.short: option for option in OPTIONS if option.short}


class CommandKind(Enum):
    """What a command line asks for; the first that applies."""

    VERSION = "version"
    HELP = "help"
    EXPORT = "export-default-settings"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Argument:
    """One option of a command line."""

    option: Option
    value: Value = field(repr=False)
    spelling: str
    """As the user wrote it, without the value: ``-t``, ``--acc``."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command line without mistakes in its form."""

    arguments: tuple[Argument, ...]
    """At most one for each option: of repeated ones that may be repeated, the last."""
    positional: int = 0
    """How many arguments belong to no option; they mean nothing."""

    def __getitem__(self, name: str) -> Argument | None:
        """Return the argument of the option with this long name."""
        return next((a for a in self.arguments if a.option.name == name), None)

    @property
    def kind(self) -> CommandKind:
        """What is to be done."""
        for kind in (CommandKind.VERSION, CommandKind.HELP, CommandKind.EXPORT):
            if self[kind.value] is not None:
                return kind
        return CommandKind.RUN


@dataclass(frozen=True, slots=True)
class _Token:
    """An option and the text that came with it, not yet understood as a value."""

    option: Option
    text: str = field(repr=False)
    spelling: str


def parse_argv(argv: Sequence[str]) -> CommandLine:
    """Parse the arguments of the command, without its name.

    Raises:
        UsageError: an option is unknown, ambiguous, repeated or lacks its value, or a
            value is not of the option's kind; also when ``--help`` is among the rest.
    """
    tokens, positional = _split(argv)
    found: dict[str, Argument] = {}
    for token in tokens:
        option = token.option
        long = f"--{option.name}"
        if option.name in found and not option.last_wins:
            raise UsageError(f"option '{long}' cannot be specified more than once")
        value = True if option.is_switch else parse_value(option, token.text, long)
        found[option.name] = Argument(option, value, token.spelling)
    return CommandLine(tuple(found.values()), positional)


def _split(argv: Sequence[str]) -> tuple[list[_Token], int]:
    rest = list(argv)
    tokens: list[_Token] = []
    positional = 0
    while rest:
        word = rest.pop(0)
        if word == "--":
            return tokens, positional + len(rest)
        if len(word) > 2 and word.startswith("--"):
            tokens += _split_long(word, rest)
        elif len(word) > 1 and word[0] == "-":
            tokens += _split_short(word, rest)
        else:
            positional += 1
    return tokens, positional


def _split_long(word: str, rest: list[str]) -> list[_Token]:
    name, equals, text = word[2:].partition("=")
    if equals and not text:
        raise UsageError(_empty_adjacent(f" '--{_shown_name(name)}'" if name else ""))
    if not name:
        return []
    option = _find_long(name)
    if option.is_switch:
        if equals:
            raise UsageError(f"option '--{option.name}' does not take any arguments")
    elif not equals:
        text = _take_value(option, rest)
    return [_Token(option, text, f"--{name}")]


def _split_short(word: str, rest: list[str]) -> list[_Token]:
    """Split ``-kvalue`` and groups such as ``-kh``, of which only the last takes a value."""
    name = word[1:].partition("=")[0]
    if len(name) > 1 and option_named(name) is not None:
        # To the C++ command, -region is -r with the value "egion".
        raise UsageError(f"unrecognised option '-{name}'", f"Did you mean '--{name}'?")
    tokens: list[_Token] = []
    for index, letter in enumerate(word[1:], start=1):
        option = _BY_SHORT.get(letter)
        if option is None:
            meant = letter.swapcase()
            hint = f"Did you mean '-{meant}'?" if meant in _BY_SHORT else ""
            raise UsageError(f"unrecognised option '-{printable(letter)}'", hint)
        if not option.is_switch:
            text = word[index + 1 :] or _take_value(option, rest)
            return [*tokens, _Token(option, text, f"-{letter}")]
        tokens.append(_Token(option, "", f"-{letter}"))
    return tokens


def _take_value(option: Option, rest: list[str]) -> str:
    """Take the next word as the value, unless it can only be an option.

    Only exact short options count as such: tokens and host names may begin with a dash.
    """
    if not rest or (len(rest[0]) == 2 and rest[0][0] == "-" and rest[0][1] in _BY_SHORT):
        raise UsageError(f"the required argument for option '--{option.name}' is missing")
    if rest[0].startswith("--") and "=" in rest[0] and not rest[0].partition("=")[2]:
        raise UsageError(_empty_adjacent(f" '--{option.name}'"))
    return rest.pop(0)


def _find_long(name: str) -> Option:
    """Return the option ``name`` names or begins.

    An abbreviation that the C++ command understands means the same here, although there
    are more options.
    """
    exact = option_named(name)
    if exact is not None:
        return exact
    candidates = [option for option in OPTIONS if option.name.startswith(name)]
    known = [option for option in candidates if option.reference]
    matches = known or candidates
    if len(matches) == 1:
        return matches[0]
    spelling = f"'--{_shown_name(name)}'"
    if not matches:
        hint = did_you_mean(f"--{name}", (f"--{option.name}" for option in OPTIONS))
        raise UsageError(f"unrecognised option {spelling}", hint)
    names = sorted(f"'--{option.name}'" for option in matches)
    listed = f"{', '.join(names[:-1])}, and {names[-1]}"
    raise UsageError(f"option {spelling} is ambiguous and matches {listed}")


def _empty_adjacent(option: str) -> str:
    return f"the argument for option{option} should follow immediately after the equal sign"


def _shown_name(name: str) -> str:
    return printable(name, _SHOWN_NAME_LENGTH)
