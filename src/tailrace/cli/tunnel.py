"""``tailrace tunnel`` opens, lists, describes, rotates and closes tunnels."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..common.atomic_files import write_atomically
from ..errors import ConfigurationError
from .arguments import Subparsers
from .client_options import add_client_options, client_of
from .tables import (
    add_json_option,
    format_time,
    print_json,
    print_lines,
    print_table,
    wants_json,
)
from .tunnel_list import add_list_options, list_tunnels

if TYPE_CHECKING:  # it takes an event loop, and usage errors take none
    from ..aws import Client, SideState

__all__ = ["add_tunnel_parser", "run_tunnel"]

_Document: TypeAlias = dict[str, Any]

_TOKENS: Final = {
    "sourceAccessToken": "source.token",
    "destinationAccessToken": "destination.token",
}
"""Token in an answer -> its file in the directory of ``--tokens-to``."""
_PROBE: Final = bytes(4096)
"""More than any token."""
_WHICH: Final = "its id, or as much of its beginning as no other tunnel has"
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_tunnel_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``tunnel``; its arguments go to :func:`run_tunnel`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "tunnel",
        help="open, list, describe, rotate and close tunnels of AWS or of tailrace serve",
        description="Manage the tunnels of AWS, or of the service that tailrace env points to. "
        "Prints tables on a terminal and JSON elsewhere.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    opening = _add_action(actions, "open", "open a tunnel and get its access tokens")
    opening.add_argument("--description", metavar="TEXT", help="what the tunnel is for")
    _add_destination(opening)
    opening.add_argument(
        "--lifetime",
        metavar="MINUTES",
        type=_minutes,
        help="close the tunnel after this time, 1 to 720 (default: 720)",
    )
    opening.add_argument(
        "--tag",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="tag of the tunnel; may be repeated",
    )
    _add_tokens_to(opening)
    listing = _add_action(actions, "list", "list tunnels, newest first")
    add_list_options(listing, _count)
    describing = _add_action(actions, "describe", "show one tunnel")
    describing.add_argument("tunnel", metavar="TUNNEL_ID", help=_WHICH)
    rotating = _add_action(actions, "rotate", "replace access tokens with new ones")
    rotating.add_argument("tunnel", metavar="TUNNEL_ID", help=_WHICH)
    rotating.add_argument(
        "--mode",
        choices=("source", "destination", "all"),
        default="all",
        help="side whose token is replaced (default: %(default)s)",
    )
    _add_destination(rotating)
    _add_tokens_to(rotating)
    closing = _add_action(actions, "close", "close tunnels")
    closing.add_argument("tunnel", metavar="TUNNEL_ID", nargs="+", help=_WHICH)
    closing.add_argument(
        "--delete", action="store_true", help="also delete their records immediately"
    )
    return parser


def _add_action(actions: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    add_json_option(parser)
    add_client_options(parser)
    return parser


def _add_destination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--thing", metavar="NAME", help="thing to notify of its new token")
    parser.add_argument(
        "--service",
        metavar="ID",
        action="append",
        default=[],
        type=_service_id,
        help="service id of the destination; may be repeated",
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _minutes(text: str) -> int:
    number, unit = text[:-1], text[-1:].lower()
    if unit in _UNITS and number.isascii() and number.isdigit():
        minutes = max(1, int(number) * _UNITS[unit] // 60)
        raise argparse.ArgumentTypeError(
            f"{text!r} has a unit; write minutes: --lifetime {minutes}"
        )
    return _count(text)


def _service_id(text: str) -> str:
    """Return ``text``; ids themselves are checked by the service."""
    several = re.findall(r"[^,\s]+", text)
    if len(several) > 1:
        options = " ".join(f"--service {each}" for each in several)
        raise argparse.ArgumentTypeError(f"{text!r} is more than one id; write {options}")
    return text


def _add_tokens_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokens-to",
        metavar="DIR",
        type=Path,
        help="write the access tokens to DIR/source.token and DIR/destination.token, with mode "
        "0600, for localproxy --access-token-file, instead of printing them",
    )


def run_tunnel(args: argparse.Namespace) -> None:
    """Carry out one action.

    Raises:
        ConfigurationError: an argument or the environment is wrong.
        ControlError: the service refused the call or could not be reached.
        LinkError: a web proxy could not be reached, or did not connect.
    """
    import asyncio

    asyncio.run(_run(args))


# The call


async def _run(args: argparse.Namespace) -> None:
    async with client_of(args) as client:
        await _ACTIONS[args.action](args, client)


# Actions


async def _open(args: argparse.Namespace, client: Client) -> None:
    parameters: _Document = _destination(args)
    if args.description is not None:
        parameters["description"] = args.description
    if args.lifetime is not None:
        parameters["timeoutConfig"] = {"maxLifetimeTimeoutMinutes": args.lifetime}
    if args.tag:
        parameters["tags"] = [_tag(text) for text in args.tag]
    _check_tokens_to(args)
    shown = _show_tokens(args, await client.api.call("OpenTunnel", parameters))
    if not wants_json(args):
        print_lines(["", *_next_steps(args, client, shown)])


def _next_steps(args: argparse.Namespace, client: Client, shown: _Document) -> list[str]:
    from ..aws import aws_endpoint, find_joined
    from ..operator.next_steps import NewTunnel, next_steps, place_words

    region = client.region if client.endpoint == aws_endpoint(client.region) else None
    joined = None if region else find_joined(os.environ)
    if joined is not None and joined.api_endpoint != client.endpoint:
        joined = None
    place = place_words(os.environ, region, joined.data_endpoint if joined else None)
    ca = os.environ.get("SSL_CERT_FILE") or (str(joined.ca_file) if joined else None)
    source, destination = (str(shown.get(name, "TOKEN")) for name in _TOKENS)
    new = NewTunnel(
        source,
        destination,
        in_files=args.tokens_to is not None,
        services=args.service,
        thing=args.thing,
        ca=None if region else ca,
    )
    return next_steps(new, place)


async def _rotate(args: argparse.Namespace, client: Client) -> None:
    from ..operator.tunnels import call_with_tunnel

    parameters = {"clientMode": args.mode.upper()} | _destination(args)
    _check_tokens_to(args)

    async def rotate(tunnel_id: str) -> _Document:
        this = {"tunnelId": tunnel_id}
        return this | await client.api.call("RotateTunnelAccessToken", this | parameters)

    _show_tokens(args, await call_with_tunnel(client, args.tunnel, rotate, only_open=True))


async def _describe(args: argparse.Namespace, client: Client) -> None:
    from ..operator.tunnels import call_with_tunnel, time_left

    async def document(tunnel_id: str) -> _Document:
        return await client.api.call("DescribeTunnel", {"tunnelId": tunnel_id})

    if wants_json(args):
        print_json(await call_with_tunnel(client, args.tunnel, document))
        return
    tunnel = await call_with_tunnel(client, args.tunnel, client.describe)
    left = time_left(tunnel, datetime.now(UTC))
    rows = [
        ("tunnel", tunnel.tunnel_id),
        ("arn", tunnel.arn),
        ("status", tunnel.state.value),
        ("description", tunnel.description),
        ("thing", tunnel.thing or ""),
        ("services", ", ".join(tunnel.services)),
        ("source", _connection(tunnel.source)),
        ("destination", _connection(tunnel.destination)),
        ("lifetime", f"{tunnel.lifetime // timedelta(minutes=1)} minutes"),
        ("left", left),
        ("opened", format_time(tunnel.opened)),
        ("changed", format_time(tunnel.changed)),
        *(("tag", f"{key}={value}") for key, value in tunnel.tags.items()),
    ]
    print_table((), [row for row in rows if row[1]])


async def _close(args: argparse.Namespace, client: Client) -> None:
    from ..operator.tunnels import call_with_tunnel

    async def close(tunnel_id: str) -> str:
        await client.close(tunnel_id, delete=args.delete)
        return tunnel_id

    for text in args.tunnel:
        closed = await call_with_tunnel(client, text, close, only_open=not args.delete)
        if closed != text and not wants_json(args):
            print(f"closed {closed}")
    if wants_json(args):
        print_json({})


_ACTIONS: Final[Mapping[str, Callable[[argparse.Namespace, Client], Awaitable[None]]]] = {
    "open": _open,
    "list": list_tunnels,
    "describe": _describe,
    "rotate": _rotate,
    "close": _close,
}


def _destination(args: argparse.Namespace) -> _Document:
    if args.thing is not None and not args.service and args.action == "open":
        raise ConfigurationError("--thing needs --service: name the services of the thing")
    destination: _Document = {}
    if args.thing is not None:
        destination["thingName"] = args.thing
    if args.service:
        destination["services"] = args.service
    return {"destinationConfig": destination} if destination else {}


def _tag(text: str) -> _Document:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigurationError(f"--tag {text!r} is not KEY=VALUE")
    return {"key": key, "value": value}


# Output


def _check_tokens_to(args: argparse.Namespace) -> None:
    """Check before the call that its tokens can be saved: they are returned only once."""
    directory: Path | None = args.tokens_to
    if directory is None:
        return
    if directory.is_file():
        raise ConfigurationError(f"--tokens-to: {directory} is a file; name a directory")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = directory / ".probe.token"
        write_atomically(probe, _PROBE)
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"--tokens-to: cannot write to {directory}: {error.strerror}"
        ) from None


def _save_tokens(directory: Path, document: _Document) -> dict[str, str]:
    """Move the tokens of an answer into files; return them by the names of the tokens."""
    saved = {}
    for name in [name for name in _TOKENS if name in document]:
        path = directory / _TOKENS[name]
        try:
            write_atomically(path, f"{document.pop(name)}\n".encode())
        except OSError as error:
            tunnel = document.get("tunnelId")
            raise ConfigurationError(
                f"cannot write {path}: {error.strerror}; the token of tunnel {tunnel} is lost, "
                f"get another one: tailrace tunnel rotate {tunnel}"
            ) from None
        saved[name] = str(path)
    return saved


def _show_tokens(args: argparse.Namespace, document: _Document) -> _Document:
    """Print an answer; return it with the names of files where its tokens are in files."""
    saved = _save_tokens(args.tokens_to, document) if args.tokens_to is not None else {}
    if wants_json(args):
        print_json(document)
        return document
    names = {
        "tunnelId": "tunnel",
        "tunnelArn": "arn",
        "sourceAccessToken": "source token",
        "destinationAccessToken": "destination token",
    }
    shown = document | saved
    rows = [(text, str(shown[name])) for name, text in names.items() if name in shown]
    print_table((), rows)
    return shown


def _connection(side: SideState) -> str:
    status = "CONNECTED" if side.is_connected else "DISCONNECTED"
    return f"{status}, since {format_time(side.since)}" if side.since is not None else status
