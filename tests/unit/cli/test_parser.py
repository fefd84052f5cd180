"""The parser; test_tailrace.py has its lines in the command itself."""

from __future__ import annotations

import pytest

from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.parser import CommandParser


def parser() -> CommandParser:
    top = CommandParser(prog="p")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser("run")
    run.add_argument("--speed", type=int)
    tools = commands.add_parser("tools").add_subparsers(dest="action", metavar="ACTION")
    tools.add_parser("mend").add_argument("what")
    return top


def test_arguments() -> None:
    args = parser().parse(["tools", "mend", "it"])
    assert (args.command, args.action, args.what) == ("tools", "mend", "it")
    assert args.parser.prog == "p tools mend"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "p: the following arguments are required: COMMAND; try p --help"),
        (["tools"], "p tools: the following arguments are required: ACTION; try p tools --help"),
        (["tools", "mend"], "p tools mend: the following arguments are required: what; try"),
        (["run", "--sped", "1"], "p run: unrecognized arguments: --sped 1; did you mean --speed?;"),
        (["run", "--speed", "x"], "p run: argument --speed: invalid int value: 'x'; try"),
        (["runn"], "did you mean run?; try p --help"),
        (["x'y"], "p: argument COMMAND: invalid choice: "),
        (["run", "a\nb\x1b[2J"], r"p run: unrecognized arguments: a\nb\x1b[2J; try p run --help"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], argv: list[str], line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse(argv)
    assert caught.value.code == ExitCode.USAGE
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1
