"""The command ``tailrace``: its sub-commands, each one call into a room below.

A command is a function of its arguments, set as ``run`` by its parser. What it raises is worded
and mapped to an exit status here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from .. import __version__
from ..common.output import accept_any_text
from ..errors import TailraceError
from ..service.errors import SettingsError
from .arguments import Subparsers
from .exit_codes import ExitCode, exit_code_of
from .keys import add_keys_parser, run_keys
from .serve import add_env_parser, add_serve_parser, error_text, run_env, run_serve
from .tunnel import add_tunnel_parser, run_tunnel

__all__ = ["main"]

_INTERRUPTED: Final = 130
"""128 + SIGINT: what a shell reports for a command that Ctrl-C has ended."""
_BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: what it reports for a command that wrote to a pipe without a reader."""
_HINTS: Final = {
    "loop": "; pip install uvloop, or use --loop auto",
    "state_dir": "; choose another with --state-dir",
}
"""Setting at fault -> which option to change."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; return the exit status."""
    accept_any_text(sys.stdout)
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except TailraceError as error:
        action = f" {args.action}" if "action" in args else ""
        hint = "" if isinstance(error, SettingsError) else _HINTS.get(error.setting, "")
        print(f"tailrace {args.command}{action}: {error_text(error)}{hint}", file=sys.stderr)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Keep the flush at the end of the process from failing a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return ExitCode.OK


class _Parser(argparse.ArgumentParser):
    """Reports usage errors on one line, with the exit status that the documents promise."""

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
        help="run a whole tunnel on this machine: service, both proxies, real transfers",
        description="Start a service and both local proxies, transfer a file through the tunnel "
        "in both directions and measure it. On a terminal the tunnel stays up until Ctrl-C.",
    )
    demo.set_defaults(run=_run_demo)
    return parser


def _add_config_parser(commands: Subparsers) -> None:
    config = commands.add_parser("config", help="inspect the configuration of localproxy")
    actions = config.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="print every effective setting and where it came from",
        description="Print every setting that localproxy would run with, and where it came "
        "from: argument, file, environment or default. Tokens and passwords are not shown.",
        prefix_chars="\0",
    )
    show.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="ARGUMENT",
        help="arguments for localproxy",
    )
    show.set_defaults(run=_run_config_show)


def _run_config_show(args: argparse.Namespace) -> None:
    from .localproxy.describe import describe
    from .localproxy.resolve import build_settings

    settings = describe(build_settings(args.arguments, os.environ))
    rows = [(row.name, row.value or "-", str(row.origin)) for row in settings]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _say("  ".join(map(str.ljust, row, widths)).rstrip())


def _run_demo(args: argparse.Namespace) -> None:
    from ..demo.runner import run_demo

    run_demo(_say, stay=sys.stdout.isatty())


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
