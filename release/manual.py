"""Manual pages (man(7)) of both commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .commands import Argument, Command, Option, exit_statuses, localproxy, tailrace

__all__ = ["manual_pages"]


def manual_pages(version: str) -> Mapping[str, str]:
    """Return file name -> text of every page, one for each command of ``tailrace``."""
    local, whole = localproxy(), tailrace()
    pages = [local, whole, *whole.commands]
    names = [_name(each) for each in pages]
    return {
        f"{name}.1": _page(each, version, [other for other in names if other != name])
        for name, each in zip(names, pages, strict=True)
    }


def _name(command: Command) -> str:
    return "-".join(command.words)


def _page(command: Command, version: str, others: list[str]) -> str:
    name = _name(command)
    lines = [
        f'.TH {_text(name.upper())} 1 "" "tailrace {version}" "User commands"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(command.summary)}",
        ".SH SYNOPSIS",
        *_synopsis(command),
        ".SH DESCRIPTION",
        _text(command.description),
    ]
    if command.epilog:
        lines += [".PP", _text(command.epilog)]
    if command.commands:
        lines.append(".SH COMMANDS")
        for each in command.commands:
            lines += [".TP", f".B {_text(' '.join(each.words[1:]))}", _text(each.summary)]
    lines += _arguments(command.arguments)
    for heading, options in command.groups.items():
        lines.append(f'.SH "{_text(heading.upper())}"')
        lines += _options(options)
    for each in _described(command)[1:]:
        lines += _section(each)
    lines.append(".SH EXIT STATUS")
    for status, meaning in exit_statuses().items():
        lines += [".TP", f".B {status}", _text(meaning)]
    lines += [".SH SEE ALSO", *(f".BR {_text(other)} (1)," for other in others[:-1])]
    lines.append(f".BR {_text(others[-1])} (1)")
    return "\n".join(lines) + "\n"


def _described(command: Command) -> list[Command]:
    """Return the commands that stand on the page of one; those of ``tailrace`` have their own."""
    return [command] if command.words == ("tailrace",) else list(command.all)


def _synopsis(command: Command) -> list[str]:
    lines: list[str] = []
    described = _described(command)
    for each in described:
        if each is command and len(described) > 1:
            continue
        if lines:
            lines.append(".br")
        lines += [f".B {_text(' '.join(each.words))}", _text(_usage(each))]
    return lines


def _usage(command: Command) -> str:
    if command.usage:
        return command.usage
    if command.commands:
        return "COMMAND [ARGUMENT ...]"
    return " ".join(["[OPTION ...]", *(each.usage for each in command.arguments)])


def _section(command: Command) -> Iterator[str]:
    yield f'.SH "{_text(" ".join(command.words[1:]).upper())}"'
    yield _text(command.description)
    if command.epilog:
        yield from (".PP", _text(command.epilog))
    for each in command.arguments:
        yield from _item(f".I {_text(each.usage)}", each.help)
    yield from _options(tuple(command.options))


def _arguments(arguments: tuple[Argument, ...]) -> Iterator[str]:
    shown = [each for each in arguments if each.help]
    if shown:
        yield ".SH ARGUMENTS"
    for each in shown:
        yield from _item(f".I {_text(each.usage)}", each.help)


def _options(options: tuple[Option, ...]) -> Iterator[str]:
    for option in options:
        names = ", ".join(rf"\fB{_text(name)}\fR" for name in option.names)
        value = rf" \fI{_text(option.metavar)}\fR" if option.metavar else ""
        text = option.help
        if option.environment:
            text += f" [environment: {option.environment}]"
        yield from _item(names + value, text)


def _item(head: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield head
    yield _text(text) or r"\&"


def _text(text: str) -> str:
    """Return one line that roff shows as it is."""
    line = " ".join(text.split()).replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{line}" if line.startswith((".", "'")) else line
