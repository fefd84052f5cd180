"""The parser of ``tailrace`` and of its commands: a mistake is one line that says what to write."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

from ..common.escaping import escape
from ..common.suggestions import closest_name
from .exit_codes import ExitCode

__all__ = ["CommandParser"]

_CHOICE: Final = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)", re.DOTALL)


class CommandParser(argparse.ArgumentParser):
    """Reports usage errors on one line, with the exit status that the documents promise."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Of the commands on a line, the last one knows what may follow.
        self.set_defaults(parser=self)

    def parse(
        self, argv: Sequence[str] | None, known: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the arguments, added to those ``known``; a usage error ends the process."""
        args, unknown = self.parse_known_args(argv, known)
        parser: CommandParser = args.parser
        if unknown:
            options = parser._option_string_actions
            guess = _guess(unknown[0].partition("=")[0], options)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{guess}")
        for name in ("command", "action"):
            if getattr(args, name, "") is None:
                parser.error(f"the following arguments are required: {name.upper()}")
        return args

    def _print_message(self, message: str, file: Any = None) -> None:
        # Some Pythons keep quiet about help that could not be written, others do not.
        if message and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """End the process."""
        wrong = _CHOICE.search(message)
        if wrong:
            message += _guess(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        self.exit(ExitCode.USAGE, f"{self.prog}: {escape(message)}; try {self.prog} --help\n")


def _guess(word: str, known: Iterable[str]) -> str:
    """Return a question with the known word that is meant, or "" where none is near."""
    near = closest_name(word, known)
    return f"; did you mean {near}?" if near else ""
