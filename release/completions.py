"""Completion of both commands in bash, zsh and fish, without starting them.

Options, commands, choices, files and directories are written down in the files made here, so that
no package is needed, and no time. What only a service knows, ids and names of things, is completed
by ``tailrace completion`` instead, with the extra ``operator``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from .commands import Argument, Command, Option, Takes, localproxy, tailrace

__all__ = ["completion_files"]


def completion_files() -> Mapping[str, str]:
    """Return path below ``share`` -> text of the file for each command and shell."""
    files: dict[str, str] = {}
    for command in (localproxy(), tailrace()):
        (name,) = command.words
        files[f"bash-completion/completions/{name}"] = _bash(command)
        files[f"zsh/site-functions/_{name}"] = _zsh(command)
        files[f"fish/vendor_completions.d/{name}.fish"] = _fish(command)
    return files


def _positional(command: Command) -> Argument | None:
    """Return the argument whose value can be completed, if there is one."""
    known = (each for each in command.arguments if each.choices or each.takes is not Takes.TEXT)
    return next(known, None)


# bash


def _bash(command: Command) -> str:
    (name,) = command.words
    return "\n".join(
        [
            f"# bash completion for {name}",
            f"_{name}() {{",
            "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}",
            "    local at='' word",
            "    # bash takes --option=value apart.",
            "    if [[ $current == = ]]; then current='';",
            "    elif [[ $before == = ]]; then before=${COMP_WORDS[COMP_CWORD - 2]}; fi",
            '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
            '        case "$at $word" in',
            *(f'            {_bash_place(each)}) at+=" $word" ;;' for each in _below(command)),
            "        esac",
            "    done",
            "    COMPREPLY=()",
            '    case "$at $before" in',
            *_bash_values(command),
            "    esac",
            '    case "$at" in',
            *(
                f"        {_bash_place(each) or chr(39) * 2}) {_bash_words(each)} ;;"
                for each in command.all
            ),
            "    esac",
            "}",
            f"complete -F _{name} {name}",
            "",
        ]
    )


def _below(command: Command) -> Iterator[Command]:
    return (each for each in command.all if each is not command)


def _bash_place(command: Command) -> str:
    words = " ".join(command.words[1:])
    return f"' {words}'" if words else ""


def _bash_values(command: Command) -> Iterator[str]:
    for each in command.all:
        place = "".join(f" {word}" for word in each.words[1:])
        for option in each.options:
            if option.takes is Takes.NOTHING:
                continue
            patterns = "|".join(f"'{place} {name}'" for name in option.names)
            yield f"        {patterns}) {_bash_value(option)}; return ;;"


def _bash_value(option: Option) -> str:
    if option.choices:
        return _bash_compgen(option.choices)
    match option.takes:
        case Takes.FILE:
            return _bash_files("-f")
        case Takes.DIRECTORY:
            return _bash_files("-d")
        case _:
            return ":"


def _bash_files(kind: str) -> str:
    return f'compopt -o filenames; mapfile -t COMPREPLY < <(compgen {kind} -- "$current")'


def _bash_compgen(words: Sequence[str]) -> str:
    return f'mapfile -t COMPREPLY < <(compgen -W {shlex.quote(" ".join(words))} -- "$current")'


def _bash_words(command: Command) -> str:
    words = [name for option in command.options for name in option.names if len(name) > 2]
    words += [each.words[-1] for each in command.commands]
    argument = _positional(command)
    if argument is None:
        return _bash_compgen(words)
    if argument.choices:
        return _bash_compgen([*words, *argument.choices])
    files = _bash_files("-d" if argument.takes is Takes.DIRECTORY else "-f")
    return f"if [[ $current == -* ]]; then {_bash_compgen(words)}; else {files}; fi"


# zsh


def _zsh(command: Command) -> str:
    (name,) = command.words
    lines = [f"#compdef {name}", ""]
    for each in command.all:
        lines += _zsh_function(each)
    return "\n".join([*lines, f'_{name} "$@"', ""])


def _zsh_function(command: Command) -> Iterator[str]:
    yield f"_{'_'.join(command.words).replace('-', '_')}() {{"
    if command.commands:
        yield "    local context state state_descr line"
        yield "    typeset -A opt_args"
    specs = [spec for option in command.options for spec in _zsh_option(option)]
    if command.commands:
        specs += ["'1: :->command'", "'*:: :->arguments'"]
    elif (argument := _positional(command)) is not None:
        action = _zsh_action(argument.takes, argument.choices)
        specs.append(shlex.quote(f"*:{_zsh_text(argument.usage)}:{action}"))
    call = "_arguments -C" if command.commands else "_arguments -s -S"
    yield " \\\n        ".join([f"    {call}", *specs])
    if command.commands:
        yield "    case $state in"
        yield "    command)"
        listed = (f"{each.words[-1]}:{each.summary}" for each in command.commands)
        yield f"        local -a commands=({' '.join(map(shlex.quote, listed))})"
        yield "        _describe -t commands command commands ;;"
        yield "    arguments)"
        yield "        case $line[1] in"
        for each in command.commands:
            yield f"        {each.words[-1]}) _{'_'.join(each.words).replace('-', '_')} ;;"
        yield "        esac ;;"
        yield "    esac"
    yield "}"
    yield ""


def _zsh_option(option: Option) -> Iterator[str]:
    value = ""
    if option.takes is not Takes.NOTHING:
        action = _zsh_action(option.takes, option.choices)
        value = f":{_zsh_text(option.metavar or 'value')}:{action}"
    for name in option.names:
        equals = "=" if value and name.startswith("--") else ""
        yield shlex.quote(f"*{name}{equals}[{_zsh_text(option.help)}]{value}")


def _zsh_action(takes: Takes, choices: Sequence[str]) -> str:
    if choices:
        return f"({' '.join(choices)})"
    return {Takes.FILE: "_files", Takes.DIRECTORY: "_files -/"}.get(takes, " ")


def _zsh_text(text: str) -> str:
    """Return text in which no character means anything to ``_arguments``."""
    return "".join(f"\\{each}" if each in "\\[]:" else each for each in text)


# fish


def _fish(command: Command) -> str:
    (name,) = command.words
    lines = [f"# fish completion for {name}"]
    for each in command.all:
        where = _fish_condition(each)
        if not any(option.takes is Takes.FILE for option in each.options) or each.commands:
            lines.append(f"complete -c {name}{where} -f")
        for below in each.commands:
            words = f"-a {below.words[-1]} -d {_fish_text(below.summary)}"
            lines.append(f"complete -c {name}{where} -f {words}")
        lines += [f"complete -c {name}{where} {_fish_option(option)}" for option in each.options]
        argument = _positional(each)
        if argument is not None and argument.choices:
            choices = _fish_text(" ".join(argument.choices))
            lines.append(f"complete -c {name}{where} -f -a {choices}")
        elif argument is not None:
            lines.append(f"complete -c {name}{where} -F")
    return "\n".join([*lines, ""])


def _fish_condition(command: Command) -> str:
    """Return when something belongs to a command: its words stand there, and none below it."""
    seen = [f"__fish_seen_subcommand_from {word}" for word in command.words[1:]]
    if command.commands:
        below = " ".join(each.words[-1] for each in command.commands)
        seen.append(f"not __fish_seen_subcommand_from {below}")
    return f' -n "{"; and ".join(seen)}"' if seen else ""


def _fish_option(option: Option) -> str:
    words = [
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
    ]
    if option.takes is not Takes.NOTHING:
        words.append("-r")
        if option.choices:
            words.append(f"-f -a {_fish_text(' '.join(option.choices))}")
        elif option.takes is Takes.DIRECTORY:
            words.append("-f -a '(__fish_complete_directories)'")
        else:
            words.append("-F" if option.takes is Takes.FILE else "-f")
    return " ".join([*words, f"-d {_fish_text(option.help)}"])


def _fish_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
