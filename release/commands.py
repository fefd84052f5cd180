"""Both commands as plain data, from the tables that their own parsers read."""

from __future__ import annotations

import argparse
import ast
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from unittest import mock

from tailrace.cli import exit_codes
from tailrace.cli.arguments import subparsers_of
from tailrace.cli.localproxy.options import GROUPS
from tailrace.cli.tailrace import whole_parser

__all__ = ["Argument", "Command", "Option", "Takes", "exit_statuses", "localproxy", "tailrace"]


class Takes(Enum):
    """What the value of an option or argument is, as far as a shell can complete it."""

    NOTHING = "nothing"
    TEXT = "text"
    FILE = "file"
    DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command."""

    names: tuple[str, ...]
    """With their dashes; short ones first."""
    help: str
    metavar: str = ""
    takes: Takes = Takes.NOTHING
    choices: tuple[str, ...] = ()
    environment: str = ""


@dataclass(frozen=True, slots=True)
class Argument:
    """A positional argument of a command."""

    usage: str
    """As it stands in the line of usage, such as ``[NAME ...]``."""
    help: str
    takes: Takes = Takes.TEXT
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """A command, and those below it."""

    words: tuple[str, ...]
    """From the name of the program on."""
    summary: str
    description: str
    epilog: str = ""
    usage: str = ""
    """What the command says of its arguments, if that is not what the list of them says."""
    groups: Mapping[str, tuple[Option, ...]] = field(default_factory=dict)
    """Heading -> options."""
    arguments: tuple[Argument, ...] = ()
    commands: tuple[Command, ...] = ()

    @property
    def options(self) -> Iterator[Option]:
        """All options."""
        for options in self.groups.values():
            yield from options

    @property
    def all(self) -> Iterator[Command]:
        """This command and all below it."""
        yield self
        for command in self.commands:
            yield from command.all


def localproxy() -> Command:
    """Return the command ``localproxy``."""
    groups = {
        heading: tuple(
            Option(
                names=(*((f"-{each.short}",) if each.short else ()), f"--{each.name}"),
                help=each.help + (f" (default: {each.default})" if each.default else ""),
                metavar=each.metavar,
                takes=_takes(each.metavar) if each.metavar else Takes.NOTHING,
                choices=each.choices,
                environment=each.environment,
            )
            for each in options
        )
        for heading, options in GROUPS.items()
    }
    return Command(
        words=("localproxy",),
        summary="local proxy of AWS IoT Secure Tunneling",
        description="Carries TCP connections through a tunnel of AWS IoT Secure Tunneling, or of"
        " a service of one's own (tailrace-serve(1)). With -s it is the source, which listens on"
        " ports for clients, with -d the destination, which connects to applications.",
        groups=groups,
    )


def tailrace() -> Command:
    """Return the command ``tailrace`` with all its commands."""
    # A default that an environment sets would be that of the machine that builds this.
    with mock.patch.dict(os.environ, {"HOME": "/nonexistent"}, clear=True):
        parser = whole_parser()
        return _command(parser, "service, device agent and tools for tunnels")


def exit_statuses() -> Mapping[int, str]:
    """Return exit status -> meaning, from the docstrings of the one table."""
    tree = ast.parse(inspect.getsource(exit_codes.ExitCode)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[int, str] = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        match before, after:
            case (
                ast.Assign(value=ast.Constant(value=int(number))),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[number] = " ".join(text.split())
    return found


def _command(parser: argparse.ArgumentParser, summary: str) -> Command:
    formatter = argparse.HelpFormatter(parser.prog, width=10_000)
    groups: dict[str, tuple[Option, ...]] = {}
    arguments: list[Argument] = []
    summaries: dict[str, str] = {}
    for group in parser._action_groups:
        options = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                listed = action._choices_actions
                summaries = {each.dest: each.help or "" for each in listed}
            elif action.option_strings:
                options.append(_option(action, formatter))
            else:
                arguments.append(_argument(action, formatter))
        if options:
            groups[(group.title or "options").capitalize()] = tuple(options)
    below = subparsers_of(parser)
    return Command(
        words=tuple(parser.prog.split()),
        summary=summary,
        description=parser.description or summary,
        epilog=parser.epilog or "",
        usage=(parser.usage or "").removeprefix(parser.prog).strip(),
        groups=groups,
        arguments=tuple(arguments),
        commands=tuple(_command(each, summaries[name]) for name, each in below.items()),
    )


def _option(action: argparse.Action, formatter: argparse.HelpFormatter) -> Option:
    takes_value = action.nargs != 0
    metavar = formatter._format_args(action, action.dest.upper()) if takes_value else ""
    return Option(
        names=tuple(sorted(action.option_strings, key=len)),
        help=_help(action, formatter),
        metavar=metavar,
        takes=_takes(metavar) if takes_value else Takes.NOTHING,
        choices=tuple(map(str, action.choices or ())),
    )


def _argument(action: argparse.Action, formatter: argparse.HelpFormatter) -> Argument:
    return Argument(
        usage=formatter._format_args(action, action.dest.upper()),
        help=_help(action, formatter),
        takes=_takes(str(action.metavar)),
        choices=tuple(map(str, action.choices or ())),
    )


def _help(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    hidden = action.help in (None, argparse.SUPPRESS)
    return "" if hidden else " ".join(formatter._expand_help(action).split())


def _takes(metavar: str) -> Takes:
    if metavar == "DIR":
        return Takes.DIRECTORY
    return Takes.FILE if metavar in ("FILE", "PATH", "TOKEN-FILE") else Takes.TEXT
