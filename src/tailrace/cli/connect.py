"""``tailrace connect``: services of a device at local addresses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..common.addresses import AddressError, parse_port
from ..common.secret import Secret
from ..errors import ConfigurationError
from ..operator.failures import Terminated
from .arguments import Subparsers
from .client_options import add_client_options, client_of
from .exit_codes import SIGNALLED
from .reach import add_tunnel_options, device_patience, wanted_tunnel

if TYPE_CHECKING:  # it takes an event loop, and usage errors take none
    from ..operator.connect import Connecting, ServiceWish

__all__ = ["add_connect_parser", "parse_services", "run_connect"]

_PATIENCE: Final = 2.0
"""Seconds that another command with the same token has to end."""
_TELLING: Final = ("AWSIOT_TUNNEL_ENDPOINT", "AWSIOT_TUNNEL_REGION")
_ELSEWHERE: Final = ("AWS_ENDPOINT_URL_IOTSECURETUNNELING", "AWS_ENDPOINT_URL")
"""Variables of a service that is not AWS': its tokens never go there."""
_LONGEST_TOKEN: Final = 64 * 1024


def add_connect_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``connect``; its arguments go to :func:`run_connect`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "connect",
        help="bring services of a device to local addresses, as localproxy does, with one command",
        usage="tailrace connect [OPTION ...] THING SERVICE[=PORT] [SERVICE[=PORT] ...]\n"
        "       tailrace connect [OPTION ...] --tunnel TUNNEL_ID [SERVICE[=PORT] ...]\n"
        "       tailrace connect [OPTION ...] --source-token-file FILE [SERVICE[=PORT] ...]",
        description="Open a tunnel to a thing, listen at a local port for each service, show what "
        "goes through, and close the tunnel at the end, which is Ctrl-C. In a pipe a line with "
        "service and address is printed for each service, and nothing else. With --tunnel or "
        "--source-token-file all services of the tunnel are meant if none is named.",
    )
    parser.add_argument(
        "thing", metavar="THING", nargs="?", help="thing; not with --source-token-file"
    )
    parser.add_argument(
        "services",
        metavar="SERVICE[=PORT]",
        nargs="*",
        help="service of the thing, and the local port for it (default: one that is free)",
    )
    parser.add_argument(
        "--source-token-file",
        metavar="FILE",
        type=Path,
        help="use the tunnel of this source token, without the control API and its keys; "
        "tailrace tunnel open --tokens-to writes such files",
    )
    add_tunnel_options(parser)
    parser.add_argument(
        "--bind",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="local address to listen on; anybody who reaches it can use the tunnel "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--open",
        action="store_true",
        help="show services whose names begin with HTTP or WEB in the browser; the only one in "
        "any case",
    )
    add_client_options(parser)
    return parser


def run_connect(args: argparse.Namespace) -> None:
    """Connect until the tunnel or a signal ends it.

    Raises:
        TailraceError: there is no tunnel, or it could not be closed; or an argument is not valid.
    """
    import asyncio

    from ..common.event_loop import LoopChoice, loop_factory, raise_descriptor_limit
    from ..operator.connect import browsable, check_ports

    words = [args.thing, *args.services] if args.thing is not None else []
    is_known = args.tunnel is not None or args.source_token_file is not None
    if args.source_token_file is not None:
        _check_token_options(args)
    if not words and not is_known:
        raise ConfigurationError("which thing? give its name and services, as: pump-7 SSH=5555")
    if not is_known and not args.services:
        raise ConfigurationError(
            f"which services of {args.thing}? name them, as: tailrace connect {args.thing} SSH"
        )
    wishes = parse_services(words if is_known else words[1:])
    if args.open and len(wishes) > 1 and not any(browsable(each.service) for each in wishes):
        raise ConfigurationError("--open: no service has a name that begins with HTTP or WEB")
    check_ports(args.bind, wishes)
    raise_descriptor_limit()
    try:
        with asyncio.Runner(loop_factory=loop_factory(LoopChoice.AUTO)) as runner:
            runner.run(_run(args, wishes))
    except Terminated as error:
        raise SystemExit(SIGNALLED + error.number) from None


def parse_services(words: Sequence[str]) -> list[ServiceWish]:
    """Return what ``SERVICE[=PORT]`` stand for.

    Raises:
        ConfigurationError: one is not valid, or a service or port is named twice.
    """
    from ..operator.connect import ServiceWish

    wishes: list[ServiceWish] = []
    for word in words:
        service, equals, text = word.partition("=")
        try:
            port = parse_port(text, 0) if equals else 0
        except AddressError:
            raise ConfigurationError(
                f"{word!r} is not SERVICE=PORT, with a port of 0 to 65535"
            ) from None
        if not service:
            raise ConfigurationError(f"{word!r} names no service")
        if service in {each.service for each in wishes}:
            raise ConfigurationError(f"the service {service!r} is named twice")
        if port and port in {each.port for each in wishes}:
            raise ConfigurationError(f"the port {port} is named twice")
        wishes.append(ServiceWish(service, port))
    return wishes


def _check_token_options(args: argparse.Namespace) -> None:
    for name in ("tunnel", "new", "keep", "lifetime"):
        if getattr(args, name):
            raise ConfigurationError(
                f"--source-token-file goes without --{name}: a token is that of one open tunnel"
            )


async def _run(args: argparse.Namespace, wishes: list[ServiceWish]) -> None:
    if args.source_token_file is not None:
        await _run_with_token(args, wishes)
        return
    from ..operator.tunnels import call_with_tunnel, is_open

    async with client_of(args) as client:
        tunnel_id, label = None, args.thing
        if args.tunnel is not None:
            found = await call_with_tunnel(client, args.tunnel, client.describe, only_open=True)
            if not is_open(found):
                raise ConfigurationError(f"the tunnel {found.tunnel_id} is closed")
            tunnel_id, label = found.tunnel_id, found.thing or found.tunnel_id
            if wishes and wishes[0].service == found.thing not in found.services:
                wishes = wishes[1:]
        wanted = wanted_tunnel(args, label, tuple(each.service for each in wishes), tunnel_id)
        connecting = _connecting(args, label, wishes)
        await connecting.run(connecting.opening.tunnel(client, wanted))


async def _run_with_token(args: argparse.Namespace, wishes: list[ServiceWish]) -> None:
    from ..library import Tunnel

    token = _read_token(args.source_token_file)
    with ExitStack() as stack:
        patience = device_patience(args)
        tunnel = Tunnel.source(
            token,
            region=_token_region(args),
            ca=args.ca_bundle,
            client_token=_kept_client_token(token, stack),
            timeout=patience,
            resume_timeout=args.resume_timeout,
        )
        # Such a directory is named after the thing, more often than not.
        label = args.source_token_file.absolute().parent.name or "tunnel"
        connecting = _connecting(args, label, wishes)
        await connecting.run(connecting.opening.tunnel_of_token(tunnel, patience))


def _connecting(args: argparse.Namespace, label: str, wishes: list[ServiceWish]) -> Connecting:
    from ..operator.connect import Connecting
    from ..operator.connect_view import LineView, make_view
    from ..operator.progress import TerminalLine

    line = TerminalLine(sys.stderr, os.environ)
    is_seen = sys.stdout.isatty()
    return Connecting(
        label,
        wishes,
        args.bind,
        view=make_view(line, sys.stderr) if is_seen else LineView(line, only_opening=True),
        out=None if is_seen and line.is_shown else sys.stdout,
        browse=args.open,
    )


def _read_token(path: Path) -> Secret:
    """Return the token in a file, or in a line of standard input for ``-``."""
    try:
        if str(path) == "-":
            text = sys.stdin.readline(_LONGEST_TOKEN)
        else:
            with path.open(encoding="ascii") as file:
                text = file.read(_LONGEST_TOKEN)
    except OSError as error:
        raise ConfigurationError(
            f"--source-token-file: cannot read {path}: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        text = ""
    token = text.strip()
    if not token.isprintable() or " " in token or not token:
        raise ConfigurationError(f"--source-token-file: {path} has no access token in it")
    return Secret(token)


def _token_region(args: argparse.Namespace) -> str | None:
    """Return the region of AWS that has the tunnel of a token, ``None`` if something else tells.

    Raises:
        ConfigurationError: nothing tells.
    """
    from ..aws import find_joined

    if args.region is not None:
        return str(args.region)
    if any(os.environ.get(name) for name in _TELLING) or find_joined(os.environ) is not None:
        return None
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region or any(os.environ.get(name) for name in _ELSEWHERE):
        raise ConfigurationError(
            "which service has the tunnel of the token? give --region, or set "
            "AWSIOT_TUNNEL_ENDPOINT to its data endpoint"
        )
    return region


def _kept_client_token(token: Secret, stack: ExitStack) -> Secret | None:
    """Return the client token that ``localproxy`` keeps for a token, until ``stack`` is closed.

    Without it, a token would be good for one run of the command only.
    """
    from ..localproxy.client_token import kept_client_token
    from .localproxy.files import default_state_dir

    directory = default_state_dir(os.environ)
    if directory is None:
        return None
    return stack.enter_context(kept_client_token(directory, token, _PATIENCE))
