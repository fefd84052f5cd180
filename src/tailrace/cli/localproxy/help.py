"""What ``--help`` shows, and the table of options in the documentation."""

from __future__ import annotations

from textwrap import wrap
from typing import Final

from .options import GROUPS, Option

__all__ = ["HELP_WIDTH", "help_text", "options_table"]

HELP_WIDTH: Final = 100
_HELP_COLUMN: Final = 34
_GLUE: Final = "\0"
"""A space at which no line of the help is broken."""


def help_text() -> str:
    """Return what ``--help`` shows, at most :data:`HELP_WIDTH` columns wide."""
    lines = [
        "Usage: localproxy [OPTION]...",
        "",
        "Local proxy of AWS IoT Secure Tunneling: carries TCP connections through a tunnel.",
        "",
        "  localproxy -r us-east-1 -s 5555           source: listen on port 5555",
        "  localproxy -r us-east-1 -d localhost:22   destination: forward to the SSH server",
    ]
    for heading, options in GROUPS.items():
        lines += ["", f"{heading}:"]
        for option in options:
            lines += _help_lines(option)
    lines += [
        "",
        "The command line takes precedence over the --config file, and the file over the",
        "environment. A web proxy is taken from https_proxy or HTTPS_PROXY (http://, https:// or",
        "socks5://), except for the hosts in no_proxy or NO_PROXY.",
    ]
    return "\n".join(lines) + "\n"


def _help_lines(option: Option) -> list[str]:
    short = f"-{option.short}, " if option.short else "    "
    left = f"  {short}--{option.name} {option.metavar}".rstrip()
    notes = ""
    if option.default:
        notes += f" [default: {option.default}]".replace(" ", _GLUE).replace(_GLUE, " ", 1)
    if option.environment:
        notes += f" [env:{_GLUE}{option.environment}]"
    wrapped = wrap(option.help + notes, HELP_WIDTH - _HELP_COLUMN, break_on_hyphens=False)
    right = [line.replace(_GLUE, " ") for line in wrapped]
    indent = " " * _HELP_COLUMN
    if len(left) >= _HELP_COLUMN:
        return [left, *(indent + line for line in right)]
    return [left.ljust(_HELP_COLUMN) + right[0], *(indent + line for line in right[1:])]


def options_table() -> str:
    """Return the table of the options for the documentation, as Markdown."""
    lines: list[str] = []
    for heading, options in GROUPS.items():
        lines += [f"**{heading}**", ""]
        lines += ["| option | environment | mode | default | meaning |", "|---|---|---|---|---|"]
        lines += [*map(_table_row, options), ""]
    return "\n".join(lines)


def _table_row(option: Option) -> str:
    spelling = f"`--{option.name} {option.metavar}".rstrip() + "`"
    if option.short:
        spelling = f"`-{option.short}`, {spelling}"
    if not option.reference:
        spelling += " \\*"
    cells = (
        spelling,
        f"`{option.environment}`" if option.environment else "",
        option.applies.value,
        option.default,
        option.help.replace("|", "\\|"),
    )
    return "| " + " | ".join(cells) + " |"
