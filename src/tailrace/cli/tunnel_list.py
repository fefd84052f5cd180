"""``tailrace tunnel list``: which tunnels there are, and what tells one from another."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ..common.queued_output import write_briefly
from ..errors import ConfigurationError
from .client_options import client_of
from .tables import print_json, print_lines, print_table, wants_json

if TYPE_CHECKING:  # it takes an event loop, and usage errors take none
    from ..aws import Client, TunnelSummary
    from ..operator.tunnels import Details

__all__ = ["add_list_options", "list_tunnels"]

T = TypeVar("T")

_CONNECTIONS: Final = 4
"""Connections over which details are asked for at the same time, at most."""
_FOR_EACH: Final = 8
"""Tunnels for which one more connection is worth its handshake."""


def add_list_options(parser: argparse.ArgumentParser, count: Callable[[str], int]) -> None:
    """Add the options of a list; :func:`list_tunnels` reads them."""
    parser.add_argument("--thing", metavar="NAME", help="list only tunnels of this thing")
    parser.add_argument(
        "--max", metavar="COUNT", type=count, help="list at most COUNT tunnels (default: all)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--open", action="store_true", help="list open tunnels only (default of tables)"
    )
    which.add_argument(
        "--all", action="store_true", help="list closed tunnels, too (default of JSON)"
    )
    parser.add_argument(
        "--sort",
        choices=("opened", "thing", "left"),
        default="opened",
        help="sort a table by this: opened, newest first; thing; or time left "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--no-details",
        action="store_true",
        help="make a table of what the list itself tells, without a call for each tunnel",
    )


async def list_tunnels(args: argparse.Namespace, client: Client) -> None:
    """Print tunnels.

    Raises:
        ConfigurationError: options contradict each other.
        ControlError, LinkError: a call failed.
    """
    if args.max is not None and args.max < 1:
        raise ConfigurationError("--max must be at least 1")
    if args.no_details and args.sort != "opened":
        raise ConfigurationError(f"--sort {args.sort} needs the details: leave out --no-details")
    if wants_json(args):
        limit = None if args.open else args.max
        documents = client.api.summaries(args.thing, limit)
        is_wanted = _is_open_document if args.open else _is_any
        print_json({"tunnelSummaries": await _first(args.max, documents, is_wanted)})
        return
    await _print_table(args, client)


async def _print_table(args: argparse.Namespace, client: Client) -> None:
    from ..operator.tunnels import Order, is_open, sort_tunnels, tunnel_rows

    closed = 0

    def is_wanted(each: TunnelSummary) -> bool:
        nonlocal closed
        wanted: bool = args.all or is_open(each)
        closed += not wanted
        return wanted

    limit = args.max if args.all else None
    listed = await _first(args.max, client.list(thing=args.thing, limit=limit), is_wanted)
    details = None if args.no_details else await _details(args, client, listed)
    tunnels = [
        each
        for each in sort_tunnels(listed, details, Order(args.sort))
        if args.all or is_open(each)  # it may have been closed meanwhile
    ]
    if tunnels:
        headings, *rows = tunnel_rows(tunnels, details, datetime.now().astimezone())
        print_table(headings, rows)
    else:
        of_thing = "" if args.thing is None else f" of {args.thing}"
        print_lines([f"no tunnel{of_thing}" if args.all else f"no open tunnel{of_thing}"])
    if closed and (not tunnels or args.max is None):
        print_lines([f"{closed} closed: --all lists {'it' if closed == 1 else 'them'}, too"])


async def _details(
    args: argparse.Namespace, client: Client, tunnels: Sequence[TunnelSummary]
) -> Details:
    """Ask for the details of tunnels; say on standard error which ones are missing, and why."""
    from ..operator.tunnels import MOST_DESCRIBED, describe_tunnels

    ids = [each.tunnel_id for each in tunnels[:MOST_DESCRIBED]]
    async with AsyncExitStack() as stack:
        clients = [client]
        while len(clients) < min(_CONNECTIONS, len(ids) // _FOR_EACH):
            clients.append(await stack.enter_async_context(client_of(args)))
        details = await describe_tunnels(clients, ids)
    missing = len(tunnels) - len(details.found)
    if details.refusal is not None:
        _say(f"{missing} of {len(tunnels)} tunnels have no details here: {details.refusal}")
    elif len(ids) < len(tunnels):
        _say(f"only {MOST_DESCRIBED} tunnels have their details here; --thing or --max lists fewer")
    return details


async def _first(
    most: int | None, found: AsyncIterator[T], is_wanted: Callable[[T], bool]
) -> list[T]:
    """Return what is wanted, but no more than ``most``; no page is asked for in vain."""
    taken: list[T] = []
    async with aclosing(cast("AsyncGenerator[T]", found)):
        async for each in found:
            if is_wanted(each):
                taken.append(each)
            if len(taken) == most:
                break
    return taken


def _is_any(document: Any) -> bool:
    return True


def _is_open_document(document: Any) -> bool:
    return isinstance(document, dict) and document.get("status") == "OPEN"


def _say(text: str) -> None:
    write_briefly(sys.stderr, f"tailrace tunnel list: {text}\n")
