"""``tailrace tunnel`` opens, lists, describes, rotates and closes tunnels."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..common.atomic_files import write_atomically
from ..errors import ConfigurationError
from .arguments import Subparsers
from .client_options import add_client_options, client_of

if TYPE_CHECKING:  # it takes an event loop, and usage errors take none
    from ..aws import Client, SideState

__all__ = [
    "add_tunnel_parser",
    "format_time",
    "print_json",
    "print_table",
    "run_tunnel",
    "wants_json",
]

_Document: TypeAlias = dict[str, Any]

_TOKENS: Final = {
    "sourceAccessToken": "source.token",
    "destinationAccessToken": "destination.token",
}
"""Token in an answer -> its file in the directory of ``--tokens-to``."""
_PROBE: Final = bytes(4096)
"""More than any token."""
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
    listing.add_argument("--thing", metavar="NAME", help="list only tunnels of this thing")
    listing.add_argument(
        "--max", metavar="COUNT", type=_count, help="list at most COUNT tunnels (default: all)"
    )
    describing = _add_action(actions, "describe", "show one tunnel")
    describing.add_argument("tunnel", metavar="TUNNEL_ID")
    rotating = _add_action(actions, "rotate", "replace access tokens with new ones")
    rotating.add_argument("tunnel", metavar="TUNNEL_ID")
    rotating.add_argument(
        "--mode",
        choices=("source", "destination", "all"),
        default="all",
        help="side whose token is replaced (default: %(default)s)",
    )
    _add_destination(rotating)
    _add_tokens_to(rotating)
    closing = _add_action(actions, "close", "close tunnels")
    closing.add_argument("tunnel", metavar="TUNNEL_ID", nargs="+")
    closing.add_argument(
        "--delete", action="store_true", help="also delete their records immediately"
    )
    return parser


def _add_action(actions: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.add_argument("--json", action="store_true", help="print JSON even on a terminal")
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
    _show_tokens(args, await client.api.call("OpenTunnel", parameters))


async def _rotate(args: argparse.Namespace, client: Client) -> None:
    parameters = {"tunnelId": args.tunnel, "clientMode": args.mode.upper()} | _destination(args)
    _check_tokens_to(args)
    document = await client.api.call("RotateTunnelAccessToken", parameters)
    _show_tokens(args, {"tunnelId": args.tunnel} | document)


async def _list(args: argparse.Namespace, client: Client) -> None:
    if args.max is not None and args.max < 1:
        raise ConfigurationError("--max must be at least 1")
    if wants_json(args):
        found = [each async for each in client.api.summaries(args.thing, args.max)]
        print_json({"tunnelSummaries": found})
        return
    rows = [
        (tunnel.tunnel_id, tunnel.state.value, format_time(tunnel.opened), tunnel.description)
        async for tunnel in client.list(thing=args.thing, limit=args.max)
    ]
    print_table(("TUNNEL", "STATUS", "OPENED", "DESCRIPTION"), rows)


async def _describe(args: argparse.Namespace, client: Client) -> None:
    if wants_json(args):
        print_json(await client.api.call("DescribeTunnel", {"tunnelId": args.tunnel}))
        return
    tunnel = await client.describe(args.tunnel)
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
        ("opened", format_time(tunnel.opened)),
        ("changed", format_time(tunnel.changed)),
        *(("tag", f"{key}={value}") for key, value in tunnel.tags.items()),
    ]
    print_table((), [row for row in rows if row[1]])


async def _close(args: argparse.Namespace, client: Client) -> None:
    for tunnel in args.tunnel:
        await client.api.call("CloseTunnel", {"tunnelId": tunnel, "delete": args.delete})
    if wants_json(args):
        print_json({})


_ACTIONS: Final[Mapping[str, Callable[[argparse.Namespace, Client], Awaitable[None]]]] = {
    "open": _open,
    "list": _list,
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


def _show_tokens(args: argparse.Namespace, document: _Document) -> None:
    saved = _save_tokens(args.tokens_to, document) if args.tokens_to is not None else {}
    if wants_json(args):
        print_json(document)
        return
    names = {
        "tunnelId": "tunnel",
        "tunnelArn": "arn",
        "sourceAccessToken": "source token",
        "destinationAccessToken": "destination token",
    }
    shown = document | saved
    rows = [(text, str(shown[name])) for name, text in names.items() if name in shown]
    print_table((), rows)


def wants_json(args: argparse.Namespace) -> bool:
    """Return whether to print JSON, as everywhere but on a terminal."""
    return bool(args.json) or not sys.stdout.isatty()


def print_json(document: _Document) -> None:
    """Print a document."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns; characters that could control a terminal become question marks."""
    lines = [
        ["".join(letter if letter.isprintable() else "?" for letter in str(cell)) for cell in line]
        for line in ([headings, *rows] if headings else rows)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


def _connection(side: SideState) -> str:
    status = "CONNECTED" if side.is_connected else "DISCONNECTED"
    return f"{status}, since {format_time(side.since)}" if side.since is not None else status


def format_time(moment: datetime) -> str:
    """Format a time in local time."""
    return moment.astimezone().isoformat(" ", "seconds")
