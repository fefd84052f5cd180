"""``tailrace things`` lists the things that wait at a service for their tunnels."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any, Final

from ..errors import ControlError
from .arguments import Subparsers
from .client_options import add_client_options, client_of
from .tables import add_json_option, format_time, print_json, print_table, wants_json

__all__ = ["add_things_parser", "run_things"]

_LIST: Final = "ListWaitingThings"


def add_things_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``things``; its arguments go to :func:`run_things`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "things",
        help="list the things that wait at tailrace serve for their tunnels",
        description="List the things that wait for their tunnels at tailrace serve itself, since "
        "when, and from where. Things that are notified in another way are not among them.",
    )
    parser.add_argument("thing", metavar="THING", nargs="?", help="list this thing only")
    add_json_option(parser)
    add_client_options(parser)
    return parser


def run_things(args: argparse.Namespace) -> None:
    """List the things.

    Raises:
        ConfigurationError: an argument or the environment is wrong.
        ControlError: the service refused the call or could not be reached.
        LinkError: a web proxy could not be reached, or did not connect.
    """
    import asyncio

    asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> None:
    async with client_of(args) as client:
        parameters = {} if args.thing is None else {"thingName": args.thing}
        document = await client.api.call(_LIST, parameters)
    if wants_json(args):
        print_json(document)
        return
    try:
        rows = [_row(each) for each in document["waitingThings"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ControlError("", f"{_LIST}: the response makes no sense") from None
    print_table(("THING", "SINCE", "ADDRESS", "KEY", "UNREAD"), rows)


def _row(thing: dict[str, Any]) -> tuple[str, ...]:
    since = datetime.fromtimestamp(thing["since"], UTC)
    names = ("address", "accessKeyId", "notifications")
    return (thing["thingName"], format_time(since), *(str(thing[name]) for name in names))
