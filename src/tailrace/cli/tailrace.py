"""The command ``tailrace``: its sub-commands, each one call into a room below.

A command is a function of its arguments, set as ``run`` by its parser; it may return an exit
status. What it raises is worded and mapped to one here. Only the module of the command that runs is
imported: with all of them, ``tailrace ssh`` would take twice the time to start.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Final

from .. import __version__
from ..common.escaping import escape
from ..common.installing import how_to_install
from ..common.output import accept_any_text
from ..common.queued_output import write_briefly
from ..common.setting_errors import SettingsError
from ..common.standard_streams import discard, open_standard_streams
from ..common.suggestions import closest_name
from ..errors import ConfigurationError, TailraceError
from ..operator.failures import CommandFailed
from .arguments import Subparsers, subparsers_of
from .completion import answer_completion, is_completion
from .exit_codes import BROKEN_PIPE, INTERRUPTED, ExitCode, exit_code_of
from .parser import CommandParser

__all__ = ["main", "whole_parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; return the exit status."""
    open_standard_streams()
    accept_any_text(sys.stdout)
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard(sys.stdout)
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is not None:
            raise
        # Errors of files have a name, and those of sockets are ours: this is standard output.
        discard(sys.stdout)
        text = f"tailrace: cannot write to standard output: {error.strerror}\n"
        write_briefly(sys.stderr, text)
        return ExitCode.USAGE


def _run(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = _parser(words[0] if words and not is_completion() else "")
    if is_completion():
        answer_completion(parser)
    args = parser.parse(words)
    try:
        status: int | None = args.run(args)
    except TailraceError as error:
        action = f" {args.action}" if "action" in args else ""
        write_briefly(sys.stderr, f"tailrace {args.command}{action}: {_text(error)}\n")
        return error.status if isinstance(error, CommandFailed) else exit_code_of(error)
    return ExitCode.OK if status is None else status


def _text(error: TailraceError) -> str:
    if isinstance(error, SettingsError):
        from .serve import error_text

        return error_text(error)
    return f"{error}{_hint(error.setting)}"


def _hint(setting: str) -> str:
    """Say which option to change for the setting at fault."""
    match setting:
        case "loop":
            return f"; use --loop auto, or install it: {how_to_install('uvloop')}"
        case "state_dir":
            return "; choose another with --state-dir"
        case _:
            return ""


def _of_module(module: str, name: str) -> Callable[[Subparsers], None]:
    """Return what adds a command, which a module of this package defines."""

    def add(commands: Subparsers) -> None:
        home = import_module(f".{module}", __package__)
        parser = getattr(home, f"add_{name}_parser")(commands)
        parser.set_defaults(run=getattr(home, f"run_{name}"))

    return add


def whole_parser() -> CommandParser:
    """Return the parser of all commands."""
    return _parser("")


def _parser(word: str) -> CommandParser:
    """Return the parser of one command, or of all of them if ``word`` is none."""
    parser = CommandParser(
        prog="tailrace",
        description="AWS IoT Secure Tunneling: service, demonstration and tools. "
        "The local proxy is the command localproxy.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"tailrace {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, add in _COMMANDS.items():
        if word == name or word not in _COMMANDS:
            add(commands)
    if word not in _COMMANDS:
        _add_help_parser(commands, parser)
    return parser


def _add_demo_parser(commands: Subparsers) -> None:
    demo = commands.add_parser(
        "demo",
        help="run a whole tunnel on this machine: service, both proxies, real transfers",
        description="Start a service and both local proxies, transfer a file through the tunnel "
        "in both directions and measure it. On a terminal the tunnel stays up until Ctrl-C.",
    )
    demo.set_defaults(run=_run_demo)


def _add_help_parser(commands: Subparsers, whole: CommandParser) -> None:
    """Add ``help``, which says what ``--help`` of a command says."""
    asked = commands.add_parser(
        "help", help="show the options of a command", description="Show what COMMAND --help shows."
    )
    asked.add_argument("words", metavar="COMMAND", nargs="*", help="such as: tunnel open")
    asked.set_defaults(run=lambda args: _run_help(whole, args.words))


def _run_help(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    for word in words:
        below = subparsers_of(parser)
        if word not in below:
            guess = closest_name(word, below)
            known = f"; its commands are {', '.join(below)}" if below else ""
            hint = f"; did you mean {guess}?" if guess else known
            raise ConfigurationError(f"{parser.prog} has no command {escape(word)!r}{hint}")
        parser = below[word]
    parser.print_help()


def _add_config_parser(commands: Subparsers) -> None:
    config = commands.add_parser("config", help="inspect the configuration of localproxy")
    actions = config.add_subparsers(dest="action", metavar="ACTION")
    show: argparse.ArgumentParser = actions.add_parser(
        "show",
        help="print every effective setting and where it came from",
        description="Print every setting that localproxy would run with, and where it came "
        "from: argument, file, environment or default. Tokens and passwords are not shown, and "
        "no token is needed.",
        usage="tailrace config show [ARGUMENT ...]",
        prefix_chars="\0",
        add_help=False,
    )
    show.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="ARGUMENT",
        help="arguments for localproxy; --help shows this",
    )
    show.set_defaults(run=_run_config_show)


def _run_config_show(args: argparse.Namespace) -> None:
    if args.arguments in (["-h"], ["--help"]):
        args.parser.print_help()
        return
    from .localproxy.describe import describe
    from .localproxy.resolve import build_settings

    settings = describe(build_settings(args.arguments, os.environ, with_token=False))
    rows = [(row.name, row.value or "-", str(row.origin)) for row in settings]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _say("  ".join(map(str.ljust, row, widths)).rstrip())


def _run_demo(args: argparse.Namespace) -> None:
    from ..demo.runner import run_demo

    run_demo(_say, stay=sys.stdout.isatty())


def _say(line: str) -> None:
    print(line, flush=True)


_COMMANDS: Final[Mapping[str, Callable[[Subparsers], None]]] = {
    "ssh": _of_module("reach", "ssh"),
    "proxy": _of_module("reach", "proxy"),
    "ssh-config": _of_module("reach", "ssh_config"),
    "connect": _of_module("connect", "connect"),
    "tunnel": _of_module("tunnel", "tunnel"),
    "things": _of_module("things", "things"),
    "doctor": _of_module("doctor", "doctor"),
    "status": _of_module("status", "status"),
    "watch": _of_module("status", "watch"),
    "serve": _of_module("serve", "serve"),
    "env": _of_module("env", "env"),
    "exec": _of_module("env", "exec"),
    "keys": _of_module("keys", "keys"),
    "invite": _of_module("invite", "invite"),
    "join": _of_module("join", "join"),
    "agent": _of_module("agent", "agent"),
    "config": _add_config_parser,
    "demo": _add_demo_parser,
    "completion": _of_module("completion", "completion"),
}
"""Commands in the order of the help."""


if __name__ == "__main__":
    sys.exit(main())
