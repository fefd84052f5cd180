"""The command ``tailrace``: its sub-commands, each one call into a room below."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from .. import __version__
from ..errors import TailraceError
from .exit_codes import ExitCode, exit_code_of
from .keys import add_keys_parser, run_keys
from .serve import add_env_parser, add_serve_parser, run_env, run_serve
from .tunnel import add_tunnel_parser, run_tunnel

if TYPE_CHECKING:
    from .localproxy.describe import Effective

__all__ = ["main"]

_Subparsers: TypeAlias = "argparse._SubParsersAction[Any]"

_INTERRUPTED: Final = 130
"""What shells expect of a program that Ctrl-C has ended."""
_BROKEN_PIPE: Final = 141
"""What they see of a program that wrote to a pipe without a reader."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; return the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except TailraceError as error:
        print(f"tailrace {args.command}: {error}", file=sys.stderr)
        return int(exit_code_of(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on; let the flush at the end of the process not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


class _Parser(argparse.ArgumentParser):
    """Ends usage errors with one line and the exit status the documents promise."""

    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}; try {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tailrace",
        description="AWS IoT Secure Tunneling: service, demonstration and tools. "
        "The local proxy is the command localproxy.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"tailrace {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_serve_parser(commands).set_defaults(run=run_serve)
    add_env_parser(commands).set_defaults(run=run_env)
    add_keys_parser(commands).set_defaults(run=run_keys)
    add_tunnel_parser(commands).set_defaults(run=run_tunnel)
    _add_config_parser(commands)
    demo = commands.add_parser(
        "demo",
        help="show a tunnel at work on this machine: service, both proxies, real transfers",
        description="Start a service and both local proxies, move files through the tunnel both "
        "ways and measure. On a terminal the tunnel then stays up until Ctrl-C.",
    )
    demo.set_defaults(run=_run_demo)
    return parser


def _add_config_parser(commands: _Subparsers) -> None:
    config = commands.add_parser("config", help="look at the configuration of localproxy")
    actions = config.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="print every effective setting and where it came from",
        description="Print every setting a localproxy call would run with, and where it came "
        "from: argument, file, environment or default. Tokens and passwords are not shown.",
        prefix_chars="\0",
    )
    show.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="ARGUMENT",
        help="the arguments localproxy would be called with",
    )
    show.set_defaults(run=_run_config_show)


def _run_config_show(args: argparse.Namespace) -> int:
    from .localproxy.describe import describe
    from .localproxy.resolve import build_settings

    rows = describe(build_settings(args.arguments, os.environ))
    widths = [max(len(text) for text in column) for column in zip(*_texts(rows), strict=True)]
    for name, value, origin in _texts(rows):
        _say(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")
    return ExitCode.OK


def _texts(rows: Sequence[Effective]) -> list[tuple[str, str, str]]:
    return [(row.name, row.value or "-", str(row.origin)) for row in rows]


def _run_demo(args: argparse.Namespace) -> int:
    from ..demo.runner import run_demo

    run_demo(_say, stay=sys.stdout.isatty())
    return ExitCode.OK


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
