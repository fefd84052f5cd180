"""``tailrace ssh``, ``tailrace proxy`` and ``tailrace ssh-config``: one command to a device."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..common.queued_output import write_briefly
from ..common.single_file import single_file
from ..common.user_directories import state_directory
from ..errors import ConfigurationError
from ..operator.failures import CommandFailed, Terminated
from ..operator.host_names import USUAL_SERVICE, Host, parse_host
from .arguments import RESUME_TIMEOUT, RESUME_TIMEOUT_HELP, Subparsers, resume_timeout
from .client_options import add_client_options, client_of, client_words
from .exit_codes import SIGNALLED, exit_code_of

if TYPE_CHECKING:  # it takes an event loop, and usage errors take none
    from ..operator.sharing import Membership
    from ..operator.wish import WantedTunnel, Wish

__all__ = [
    "add_proxy_parser",
    "add_ssh_config_parser",
    "add_ssh_parser",
    "add_tunnel_options",
    "device_patience",
    "run_proxy",
    "run_ssh",
    "run_ssh_config",
    "wanted_tunnel",
]

_UNSEEN_PATIENCE: Final = 30.0
"""Seconds to wait for a device where nobody sees that, unless told otherwise."""


def add_ssh_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``ssh``; its arguments go to :func:`run_ssh`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "ssh",
        help="run ssh on a device: opens a tunnel, waits for the device, closes the tunnel",
        usage="tailrace ssh [OPTION ...] [USER@]THING [OPTION ...] [--] [SSH_ARGUMENT ...] "
        "[COMMAND ...]",
        description="Open a tunnel to a thing, run ssh through it and close the tunnel. What "
        "follows THING is for ssh: its options, and a command for the device.",
        epilog="Ends with the status of ssh.",
    )
    parser.add_argument("thing", metavar="THING", help="thing, or USER@THING")
    parser.add_argument("--user", metavar="NAME", help="user on the device, as -l of ssh")
    parser.add_argument(
        "--service", metavar="ID", help=f"service of the device (default: {USUAL_SERVICE})"
    )
    add_tunnel_options(parser)
    add_client_options(parser)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def add_proxy_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``proxy``; its arguments go to :func:`run_proxy`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "proxy",
        help="be a connection to a service of a device: for ssh's ProxyCommand",
        description="Connect standard input and output to a service of a thing. Commands that "
        "run at the same time share one tunnel, which is closed with the last of them.",
    )
    parser.add_argument("thing", metavar="THING", help="thing, or THING.tunnel as ssh has it")
    parser.add_argument(
        "service",
        metavar="SERVICE",
        nargs="?",
        help=f"service of the device (default: {USUAL_SERVICE})",
    )
    add_tunnel_options(parser)
    add_client_options(parser)
    return parser


def add_ssh_config_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``ssh-config``; its arguments go to :func:`run_ssh_config`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "ssh-config",
        help="print what lets ssh, scp, sftp, rsync, git, Ansible and VS Code reach devices",
        description="Print a block for ~/.ssh/config. With it THING.tunnel is a host for all that "
        "use ssh.",
        epilog="tailrace ssh-config >> ~/.ssh/config; then: ssh pump-7.tunnel",
    )
    parser.add_argument(
        "--things",
        metavar="GLOB",
        default="*",
        help="only things with such names, as 'pump-*'; several are separated by commas",
    )
    parser.add_argument("--user", metavar="NAME", help="user on the devices")
    add_client_options(parser)
    return parser


def add_tunnel_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a tunnel to a thing."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--new", action="store_true", help="open a tunnel even if there is one that is free"
    )
    which.add_argument(
        "--tunnel",
        metavar="TUNNEL_ID",
        help="use this tunnel of the thing; a source that is connected to it is disconnected",
    )
    parser.add_argument("--keep", action="store_true", help="leave the tunnel open that was opened")
    parser.add_argument(
        "--lifetime",
        metavar="MINUTES",
        type=_minutes,
        help="let the service close a tunnel that is opened after this time, 1 to 720",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        help="how long to wait for the device (default: until Ctrl-C on a terminal, "
        f"{_UNSEEN_PATIENCE:.0f} elsewhere)",
    )
    parser.add_argument(
        "--resume-timeout",
        metavar="SECONDS",
        type=resume_timeout,
        default=RESUME_TIMEOUT,
        help=RESUME_TIMEOUT_HELP,
    )


def _minutes(text: str) -> timedelta:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= 720):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes, 1 to 720")
    return timedelta(minutes=int(text))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def device_patience(args: argparse.Namespace) -> float | None:
    """Return for how many seconds the device is waited for; ``None``: for ever."""
    timeout: float | None = args.timeout
    return _UNSEEN_PATIENCE if timeout is None and not sys.stderr.isatty() else timeout


def wanted_tunnel(
    args: argparse.Namespace, thing: str, services: tuple[str, ...], tunnel_id: str | None
) -> WantedTunnel:
    """Return the tunnel that the options ask for."""
    from ..operator.wish import WantedTunnel

    return WantedTunnel(
        thing,
        services,
        state_directory(os.environ) / "opened",
        tunnel_id=tunnel_id,
        new=args.new,
        keep=args.keep,
        lifetime=args.lifetime,
        timeout=device_patience(args),
        resume_timeout=args.resume_timeout,
    )


def run_ssh(args: argparse.Namespace) -> int:
    """Run ssh; return its status.

    Raises:
        TailraceError: there is no tunnel, or it could not be closed.
    """
    from ..operator.ssh import NO_SSH, explanation, has_program, run, ssh_command

    args = _own_options_first(args)
    if not has_program("ssh"):
        raise ConfigurationError(NO_SSH)
    host = parse_host(args.thing)
    service = args.service or host.service or USUAL_SERVICE
    with _reached(_wish(args, host, service)) as (membership, endings):
        command = ssh_command(
            membership.path, host.thing, service, args.user or host.user, args.arguments
        )
        status = run(command)
        reason = explanation(membership, status)
        if reason:
            write_briefly(sys.stderr, f"tailrace ssh: {host.thing}: {reason}\n")
        endings.append(status if status >= 0 else SIGNALLED - status)
    return endings[-1]


def _own_options_first(args: argparse.Namespace) -> argparse.Namespace:
    """Take options that stand between the thing and what is for ssh, which has no long ones."""
    rest, own = list(args.arguments), []
    flags = {name: action.nargs == 0 for name, action in args.parser._option_string_actions.items()}
    while rest and rest[0].startswith("--") and rest[0] != "--":
        word = rest.pop(0)
        own.append(word)
        if "=" not in word and not flags.get(word, True) and rest:
            own.append(rest.pop(0))
    if rest[:1] == ["--"]:
        rest.pop(0)
    if own:
        args = args.parser.parse([*own, args.thing], args)
    args.arguments = rest
    return args


def run_proxy(args: argparse.Namespace) -> int:
    """Be a connection until it ends.

    Raises:
        TailraceError: there is none, or it was cut.
        BrokenPipeError: nobody reads standard output.
    """
    from ..operator.stdio import join_streams

    host = parse_host(args.thing)
    service = args.service or host.service or USUAL_SERVICE
    with _reached(_wish(args, host, service)) as (membership, endings):
        with membership.open_socket(service) as sock:
            try:
                join_streams(sock)
            except BrokenPipeError:
                raise
            except ConnectionError as error:
                membership.check()
                reason = membership.state.cause or error.strerror
                raise CommandFailed(f"{host.thing}: the connection was cut: {reason}") from None
        membership.check()
        endings.append(0)
    return endings[-1]


def _wish(args: argparse.Namespace, host: Host, service: str) -> Wish:
    from ..operator.wish import Wish

    if not hasattr(os, "fork"):
        raise ConfigurationError("this system has no unix sockets and no fork, which this takes")
    if not host.thing:
        raise ConfigurationError(f"{args.thing!r} names no thing")
    return Wish(
        wanted_tunnel(args, host.thing, (service,), args.tunnel),
        make_client=lambda: client_of(args),
        exit_status=exit_code_of,
    )


@contextmanager
def _reached(wish: Wish) -> Iterator[tuple[Membership, list[int]]]:
    """Have a tunnel in the block, which adds its status to the list."""
    from ..operator.progress import TerminalLine
    from ..operator.reaching import reached, terminable

    endings: list[int] = []
    try:
        with terminable(), reached(wish, TerminalLine(sys.stderr, os.environ)) as membership:
            yield membership, endings
    except Terminated as error:
        raise SystemExit(SIGNALLED + error.number) from None
    except CommandFailed as error:
        if not endings:
            raise
        # What was asked for is done, and has a status of its own.
        write_briefly(sys.stderr, f"tailrace: {wish.tunnel.thing}: {error}\n")


def run_ssh_config(args: argparse.Namespace) -> None:
    """Print the block.

    Raises:
        ConfigurationError: an argument is not valid.
    """
    from ..operator.ssh_config import ssh_config_block

    print(ssh_config_block(args.things, _this_command(), client_words(args), args.user), end="")


def _this_command() -> list[str]:
    """Return how other programs run this command, whatever their PATH."""
    archive = single_file()
    if archive is not None:
        return [sys.executable, str(archive.absolute())]
    program = Path(sys.argv[0])
    if program.name == "tailrace" and program.is_file():
        return [str(program.absolute())]
    return [sys.executable, "-m", "tailrace"]
