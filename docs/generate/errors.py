"""Errors and exit codes, from :mod:`tailrace.errors` and :mod:`tailrace.cli.exit_codes`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tailrace import errors
from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.errors import TailraceError
from tailrace.service.api.errors import ErrorType
from tailrace.service.relay.handshake import refuse_admission
from tailrace.service.tunnels.rules import Refusal

from .markdown import attribute_docs, first_paragraph, notice, table

__all__ = ["exit_codes", "exit_codes_table", "page", "tree"]

_INTRODUCTION: Final = """\
# Errors

Everything that tailrace raises on purpose is a `tailrace.TailraceError`, and every error that ends
a command is one of them: *code* is its [exit code](exit-codes.md) then.
[The library](library.md#errors) says how programs handle them, and
[troubleshooting](../guides/troubleshooting.md) lists messages.

*Again* says whether the same attempt may succeed later: a tunnel keeps trying then. Where it is
*once it worked*, that is so only if a link has worked before.
"""

_WHAT_TO_DO: Final = {
    ExitCode.OK: "nothing",
    ExitCode.USAGE: "read the line; `--help` lists the options. Also when another local proxy has "
    "the access token: stop that one",
    ExitCode.TOKEN_REFUSED: "see below",
    ExitCode.NETWORK: "check region, endpoint (the data endpoint, not that of the control API), "
    "DNS, web proxy and firewall",
    ExitCode.LISTEN: "choose another with `-s` or `-b`, as the line shows, or stop what holds it",
    ExitCode.TLS: "name the authority's certificates with `--capath`; check the clock",
    ExitCode.PROTOCOL: "write the `-s` or `-d` that the line shows; upper and lower case differ",
    ExitCode.ALTERED: "see below",
    ExitCode.CHECK_FAILED: "what the lines marked `FAIL` say",
}


_CONTROL_API: Final = """\
## Of the control API

What `tailrace serve` answers: those of AWS' model, and those that all services of AWS have.
[Control API](service.md#control-api) says when.
"""

_DATA_ENDPOINT: Final = """\
## Of the data endpoint

What a service answers to a local proxy whose token it does not take, in AWS' words where these are
known; *cause* is what the [metrics](metrics.md#the-service) and the
[audit log](events.md#in-the-audit-log) call it.
"""


def _refusals() -> list[list[str]]:
    answers = [refuse_admission(each) for each in Refusal]
    return [[str(each), str(int(each.status)), f"`{each.cause}`"] for each in answers]


def exit_codes() -> dict[ExitCode, str]:
    """Return code -> what it means."""
    meanings = attribute_docs(ExitCode)
    return {code: meanings[code.name].rstrip(".") for code in ExitCode}


def tree() -> Iterator[tuple[type[TailraceError], int]]:
    """Yield each error and how deep it is, bases before what derives from them."""
    yield from _below(TailraceError, 0)


def _below(kind: type[TailraceError], depth: int) -> Iterator[tuple[type[TailraceError], int]]:
    yield kind, depth
    for each in sorted(kind.__subclasses__(), key=lambda each: each.__name__):
        if each.__module__ == errors.__name__:
            yield from _below(each, depth + 1)


def _again(kind: type[TailraceError]) -> str:
    if not hasattr(kind, "retryable"):
        return ""
    if kind.retryable:
        return "yes"
    return "once it worked" if getattr(kind, "retryable_once_worked", False) else "no"


def exit_codes_table() -> str:
    """Return the table of the exit codes: what each means, and what to do."""
    rows = [[str(int(code)), meaning, _WHAT_TO_DO[code]] for code, meaning in exit_codes().items()]
    return table(["Code", "Meaning", "What to do"], rows)


def page() -> str:
    """Return the page."""
    rows = [
        [
            "&nbsp;" * (4 * depth) + f"`{kind.__name__}`",
            first_paragraph(kind),
            _again(kind),
            str(int(exit_code_of(kind.__new__(kind)))),
        ]
        for kind, depth in tree()
    ]
    answers = [[f"`{each.code}`", str(int(each.status))] for each in ErrorType]
    return "\n".join(
        [
            notice("src/tailrace/errors.py, and the service's errors and refusals"),
            _INTRODUCTION,
            "## In programs and commands\n",
            table(["Error", "Means", "Again", "Code"], rows),
            _CONTROL_API,
            table(["Error", "Status"], answers),
            _DATA_ENDPOINT,
            table(["Answer", "Status", "Cause"], _refusals()),
        ]
    )
