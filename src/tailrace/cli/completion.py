"""Completion of ``tailrace`` in shells: commands and options, and what only the service knows.

The shell runs the command itself for each completion, and argcomplete, an extra, answers from the
parser. Ids of tunnels and names of things are asked for at the control API that the command would
call.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from ..common.installing import how_to_install_extra
from ..errors import ConfigurationError, TailraceError
from .arguments import Subparsers, subparsers_of

if TYPE_CHECKING:  # it takes an event loop, and usage errors take none
    from ..aws import Client

__all__ = ["add_completion_parser", "answer_completion", "is_completion", "run_completion"]

_VARIABLE: Final = "_ARGCOMPLETE"
"""Set by the shell's function, whatever the command line holds."""
_SHELLS: Final = ("bash", "zsh", "fish")
_PATIENCE: Final = 2.0
"""Seconds for which a person waits for ids at most."""
_MOST: Final = 100
_MOST_DESCRIBED: Final = 20
"""Tunnels that are asked for their thing, newest first, a call each."""

_Found: TypeAlias = "Mapping[str, str]"
"""Words that can stand there -> what each is."""
_Completer: TypeAlias = "Callable[..., _Found]"
_Question: TypeAlias = "Callable[[Client, argparse.Namespace], Awaitable[_Found]]"


def add_completion_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``completion``; its arguments go to :func:`run_completion`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "completion",
        help="print what makes a shell complete commands, options, tunnel ids and things",
        description="Print code for the start-up file of a shell.",
        epilog='bash and zsh: eval "$(tailrace completion bash)"; '
        "fish: tailrace completion fish | source",
    )
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    return parser


def run_completion(args: argparse.Namespace) -> None:
    """Print the code for a shell.

    Raises:
        ConfigurationError: the extra ``[operator]`` is not installed.
    """
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        raise ConfigurationError(
            f"completion needs the package argcomplete: {how_to_install_extra('operator')}"
        ) from None
    print(shellcode(["tailrace"], shell=args.shell))


def is_completion() -> bool:
    """Return whether a shell asks for completions, and nothing is to be run."""
    return _VARIABLE in os.environ


def answer_completion(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, and end the process; nothing is completed without the extra."""
    try:
        import argcomplete
    except ImportError:
        raise SystemExit(1) from None
    _set_completers(parser)
    argcomplete.autocomplete(parser, always_complete_options="long", exit_method=sys.exit)


def _set_completers(parser: argparse.ArgumentParser) -> None:
    """Let the values of arguments be completed by what they stand for, in all commands."""
    for action in parser._actions:
        completer = _COMPLETERS.get((action.dest, str(action.metavar)))
        if completer is not None:
            vars(action)["completer"] = completer
    for each in subparsers_of(parser).values():
        _set_completers(each)


def _tunnels(parsed_args: argparse.Namespace, **_: object) -> _Found:
    return _ask(parsed_args, _known_tunnels)


def _things(parsed_args: argparse.Namespace, **_: object) -> _Found:
    return _ask(parsed_args, _known_things)


def _services(parsed_args: argparse.Namespace, **_: object) -> _Found:
    return _ask(parsed_args, _known_services)


_COMPLETERS: Final[Mapping[tuple[str, str], _Completer]] = {
    ("tunnel", "TUNNEL_ID"): _tunnels,
    ("thing", "NAME"): _things,
    ("thing", "THING"): _things,
    ("service", "SERVICE"): _services,
    ("services", "SERVICE[=PORT]"): _services,
}
"""Name and metavar of an argument -> what completes it."""


def _ask(args: argparse.Namespace, known: _Question) -> _Found:
    """Return what the service knows; nothing when it does not answer, or not in time."""
    import asyncio

    try:
        return asyncio.run(_answer(args, known))
    except (TailraceError, TimeoutError):
        return {}


async def _answer(args: argparse.Namespace, known: _Question) -> _Found:
    import asyncio

    from ..aws.client import Client

    # Half a command line may lack some of these.
    client = Client(
        profile=getattr(args, "profile", None),
        region=getattr(args, "region", None),
        endpoint=getattr(args, "endpoint_url", None),
        ca=getattr(args, "ca_bundle", None),
    )
    async with asyncio.timeout(_PATIENCE), client:
        return await known(client, args)


async def _known_tunnels(client: Client, args: argparse.Namespace) -> _Found:
    listed = [tunnel async for tunnel in client.list(limit=_MOST)]
    return {each.tunnel_id: f"{each.state.value} {each.description}" for each in listed}


async def _known_things(client: Client, args: argparse.Namespace) -> _Found:
    from ..operator.tunnels import latest_tunnels

    found = await latest_tunnels(client, None, _MOST_DESCRIBED)
    return {each.thing: each.state.value for each in reversed(found) if each.thing}


async def _known_services(client: Client, args: argparse.Namespace) -> _Found:
    """Return the services of all tunnels that the thing has had lately."""
    from ..operator.tunnels import latest_tunnels

    thing = getattr(args, "thing", None)
    found = await latest_tunnels(client, thing, _MOST_DESCRIBED) if thing else []
    return {service: f"of {thing}" for each in found for service in each.services}
