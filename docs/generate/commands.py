"""The commands of ``tailrace`` and all their options, from the parsers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Final

from tailrace.cli.arguments import subparsers_of
from tailrace.cli.tailrace import whole_parser

from .markdown import notice, table

__all__ = ["commands", "page"]

_INTRODUCTION: Final = """\
# Commands of tailrace

What `tailrace COMMAND --help` says, all on one page. `tailrace help COMMAND` is the same as
`--help`. The local proxy is a command of its own, [`localproxy`](localproxy.md). All of them end
with one of these [exit codes](exit-codes.md).
"""


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command that does something with its parser, in the order of the help."""
    yield from _below("tailrace", whole_parser())


def _below(
    name: str, parser: argparse.ArgumentParser
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    below = subparsers_of(parser)
    if not below:
        yield name, parser
    for word, each in below.items():
        yield from _below(f"{name} {word}", each)


def _options(parser: argparse.ArgumentParser) -> list[list[str]]:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        rows.append([_spelling(action), _prose(action.help or "", action, parser)])
    return rows


def _spelling(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if metavar is None and action.choices is not None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return f"`{metavar or action.dest}`"
    value = "" if action.nargs == 0 else f" {metavar or action.dest.upper()}"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def _prose(text: str, action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    values = {**vars(action), "prog": parser.prog}
    return _escaped(" ".join((text % values).split()))


def _escaped(text: str) -> str:
    """Return help as Markdown: what looks like an option or a placeholder is code."""
    text = re.sub(r"([*_<>$\[\]])", r"\\\1", text)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", text)


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    parts = [f"## {name}", ""]
    if parser.description:
        parts += [_escaped(" ".join(parser.description.split())), ""]
    parts += ["```text"]
    for form in _usage(parser).splitlines():
        parts += _wrapped(form)
    parts += ["```", ""]
    rows = _options(parser)
    if rows:
        parts += [table(["Argument", "Does"], rows)]
    return "\n".join(parts)


def _usage(parser: argparse.ArgumentParser) -> str:
    """Return the usage of a parser, each form of it on one line."""
    # argparse breaks lines within arguments, and where depends on the version of Python.
    formatter = argparse.HelpFormatter(parser.prog, width=10_000)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    return formatter.format_help().replace(" [-h]", "").strip()


def _wrapped(usage: str, width: int = 84) -> list[str]:
    """Return a usage on lines that break between arguments."""
    lines = [""]
    for part in _arguments(usage):
        if lines[-1] and len(lines[-1]) + 1 + len(part) > width:
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return lines


def _arguments(usage: str) -> Iterator[str]:
    """Yield the arguments in a usage: what brackets hold together is one."""
    words: list[str] = []
    for word in usage.split():
        words.append(word)
        argument = " ".join(words)
        if argument.count("[") == argument.count("]"):
            yield argument
            words = []


def page() -> str:
    """Return the page."""
    sections = [_section(name, parser) for name, parser in commands()]
    return "\n".join([notice("the parsers in src/tailrace/cli"), _INTRODUCTION, *sections])
