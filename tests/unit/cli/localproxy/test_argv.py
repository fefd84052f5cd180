"""The command line is read as Boost.Program_options reads it.

The expected sentences are those the C++ command prints, except where it would repeat a
value.
"""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.refusals import value_unless_refused
from tailrace.cli.exit_codes import exit_code_of
from tailrace.cli.localproxy.argv import CommandKind, CommandLine, parse_argv
from tailrace.cli.localproxy.options import OPTIONS, Option
from tailrace.cli.localproxy.values import UsageError

WITH_VALUE = [option for option in OPTIONS if not option.is_switch]
SWITCHES = [option for option in OPTIONS if option.is_switch]
TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU"


def by_name(option: Option) -> str:
    return option.name


def sample(option: Option) -> str:
    """Return a text that is a value of ``option``."""
    return option.choices[0] if option.choices else "5"


def values(command: CommandLine) -> dict[str, object]:
    return {argument.option.name: argument.value for argument in command.arguments}


@pytest.mark.parametrize("option", WITH_VALUE, ids=by_name)
def test_long_spellings(option: Option) -> None:
    text = sample(option)
    apart = parse_argv([f"--{option.name}", text])
    joined = parse_argv([f"--{option.name}={text}"])
    assert list(values(apart)) == [option.name]
    assert values(apart) == values(joined)
    assert apart.arguments[0].spelling == f"--{option.name}"


@pytest.mark.parametrize("option", [o for o in WITH_VALUE if o.short], ids=by_name)
def test_short_spellings(option: Option) -> None:
    text = sample(option)
    apart = parse_argv([f"-{option.short}", text])
    joined = parse_argv([f"-{option.short}{text}"])
    assert list(values(apart)) == [option.name]
    assert values(apart) == values(joined)
    assert apart.arguments[0].spelling == f"-{option.short}"


@pytest.mark.parametrize("option", SWITCHES, ids=by_name)
def test_switches(option: Option) -> None:
    assert values(parse_argv([f"--{option.name}"])) == {option.name: True}
    if option.short:
        assert values(parse_argv([f"-{option.short}"])) == {option.name: True}


@pytest.mark.parametrize("option", WITH_VALUE, ids=by_name)
def test_a_missing_value_is_an_error(option: Option) -> None:
    sentence = f"the required argument for option '--{option.name}' is missing"
    for argv in ([f"--{option.name}"], [f"--{option.name}", "-k"]):
        with pytest.raises(UsageError, match=f"^{sentence}$"):
            parse_argv(argv)
    with pytest.raises(
        UsageError,
        match=f"^the argument for option '--{option.name}' should follow immediately after the"
        " equal sign$",
    ):
        parse_argv([f"--{option.name}="])


@pytest.mark.parametrize("option", OPTIONS, ids=by_name)
def test_only_verbose_may_be_repeated(option: Option) -> None:
    once = [f"--{option.name}"] if option.is_switch else [f"--{option.name}", sample(option)]
    if option.name == "verbose":
        assert values(parse_argv(["-v", "4", "--verbose=6", "-v2"])) == {"verbose": 2}
        return
    with pytest.raises(
        UsageError, match=f"^option '--{option.name}' cannot be specified more than once$"
    ):
        parse_argv(once + once)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--acc", "T"], {"access-token": "T"}),
        (["--access-toke", "T"], {"access-token": "T"}),
        (["--access-token-", "F"], {"access-token-file": "F"}),
        (["--r", "us"], {"region": "us"}),
        (["--re=us"], {"region": "us"}),
        (["--config", "F"], {"config": "F"}),
        (["--config-", "D"], {"config-dir": "D"}),
        (["--l", "x"], {"local-bind-address": "x"}),
        (["--ling", "3"], {"linger": 3.0}),
        (["--m", "src"], {"mode": "src"}),
        (["--h"], {"help": True}),
        (["-e=x"], {"proxy-endpoint": "=x"}),
        (["-t", "--help"], {"access-token": "--help"}),
        (["-t", "--", "-h"], {"access-token": "--", "help": True}),
        (["-t", "-"], {"access-token": "-"}),
        (["-t", "-5"], {"access-token": "-5"}),
        (["-t", "-tx"], {"access-token": "-tx"}),
        (["-t", ""], {"access-token": ""}),
        (["-kh"], {"no-ssl-host-verify": True, "help": True}),
        (["-ks5555"], {"no-ssl-host-verify": True, "source-listen-port": "5555"}),
        (["-ks", "5555"], {"no-ssl-host-verify": True, "source-listen-port": "5555"}),
        (["-s", "a=1,b=2"], {"source-listen-port": "a=1,b=2"}),
        (["--source-listen-port=a=1"], {"source-listen-port": "a=1"}),
    ],
)
def test_forms(argv: list[str], expected: dict[str, object]) -> None:
    assert values(parse_argv(argv)) == expected


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["-Z"], "unrecognised option '-Z'"),
        (["-hZ"], "unrecognised option '-Z'"),
        (["--zzz"], "unrecognised option '--zzz'"),
        ([f"--zzz={TOKEN}"], "unrecognised option '--zzz'"),
        ([f"-Z{TOKEN}"], "unrecognised option '-Z'"),
        (["--VERSION"], "unrecognised option '--VERSION'"),
        (["---"], "unrecognised option '---'"),
        (["-="], "unrecognised option '-='"),
        (["-\x1b"], "unrecognised option '-\\x1b'"),
        (["--" + "a" * 40], "unrecognised option '--" + "a" * 29 + "...'"),
        (["-v"], "the required argument for option '--verbose' is missing"),
        (["--verb"], "the required argument for option '--verbose' is missing"),
        (["-v", "abc"], "the argument ('abc') for option '--verbose' is invalid"),
        (["-v", ""], "the argument for option '--verbose' is invalid"),
        (["-v", TOKEN], "the argument for option '--verbose' is invalid"),
        (["-v", "70000"], "the argument ('70000') for option '--verbose' is invalid"),
        (["-v", "4", "-v", "x"], "the argument ('x') for option '--verbose' is invalid"),
        (
            ["--acc="],
            "the argument for option '--acc' should follow immediately after the equal sign",
        ),
        (["--="], "the argument for option should follow immediately after the equal sign"),
        (
            ["-t", "--x="],
            "the argument for option '--access-token' should follow immediately after the equal"
            " sign",
        ),
        (["--help=1"], "option '--help' does not take any arguments"),
        (["--no-ssl=1"], "option '--no-ssl-host-verify' does not take any arguments"),
        (["--json=1"], "option '--json' does not take any arguments"),
        (
            ["--c"],
            "option '--c' is ambiguous and matches '--capath', '--client-token', '--config', and"
            " '--config-dir'",
        ),
        (["--co=5"], "option '--co' is ambiguous and matches '--config', and '--config-dir'"),
        (
            ["--st", "5"],
            "option '--st' is ambiguous and matches '--stall-timeout', and '--state-dir'",
        ),
        (["-h", "-Z"], "unrecognised option '-Z'"),
        (["-V", "-v"], "the required argument for option '--verbose' is missing"),
        (["-h", "-h"], "option '--help' cannot be specified more than once"),
    ],
)
def test_mistakes(argv: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_argv(argv)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("argv", "positional"),
    [
        ([], 0),
        (["foo", "-", ""], 3),
        (["--", "-Z", "-h"], 2),
        (["-k", "true"], 1),
        (["--=x"], 0),
    ],
)
def test_positional_arguments_mean_nothing(argv: list[str], positional: int) -> None:
    command = parse_argv(argv)
    assert command.positional == positional
    assert command.kind is CommandKind.RUN


@pytest.mark.parametrize(
    ("argv", "kind"),
    [
        ([], CommandKind.RUN),
        (["-t", "x"], CommandKind.RUN),
        (["-h"], CommandKind.HELP),
        (["-h", "--export-default-settings", "f"], CommandKind.HELP),
        (["--help", "--version"], CommandKind.VERSION),
        (["-hV"], CommandKind.VERSION),
        (["--export-default-settings", "f"], CommandKind.EXPORT),
    ],
)
def test_kind(argv: list[str], kind: CommandKind) -> None:
    assert parse_argv(argv).kind is kind


def test_look_up() -> None:
    command = parse_argv(["-t", TOKEN])
    argument = command["access-token"]
    assert argument is not None
    assert argument.value == TOKEN
    assert command["region"] is None


def test_values_are_not_in_the_representation() -> None:
    assert TOKEN not in repr(parse_argv(["-t", TOKEN]))


words = st.one_of(
    st.text(max_size=8),
    st.sampled_from([f"-{o.short}" for o in OPTIONS if o.short]),
    st.builds(
        lambda option, cut, rest: f"--{option.name[:cut]}{rest}",
        st.sampled_from(OPTIONS),
        st.integers(1, 30),
        st.one_of(st.just(""), st.text(max_size=4).map(lambda text: f"={text}")),
    ),
)


@given(st.lists(words, max_size=8))
def test_any_words_are_a_command_line_or_a_usage_error(argv: list[str]) -> None:
    command = value_unless_refused(parse_argv, argv)
    if command is None:
        return
    assert len(command.arguments) + command.positional <= sum(map(len, argv)) + len(argv)


@given(
    st.dictionaries(
        st.sampled_from([o.name for o in WITH_VALUE if o.kind.value == "text"]),
        st.text(min_size=1),
    ),
)
def test_what_is_printed_parses_to_the_same(texts: dict[str, str]) -> None:
    argv = [f"--{name}={text}" for name, text in texts.items()]
    command = parse_argv(argv)
    assert values(command) == texts
    assert [f"{a.spelling}={a.value}" for a in command.arguments] == argv


REFERENCE = os.environ.get("LOCALPROXY_REFERENCE", "")


@pytest.mark.skipif(not REFERENCE, reason="LOCALPROXY_REFERENCE does not name the C++ command")
@pytest.mark.parametrize(
    "argv",
    [
        ["-Z"],
        ["--zzz"],
        ["-v"],
        ["--verb"],
        ["-v", ""],
        ["-v", "abc"],
        ["-v4x"],
        ["-v", "70000"],
        ["--acc="],
        ["--="],
        ["--c"],
        ["--co"],
        ["--s", "1"],
        ["--dest", "1"],
        ["--help=1"],
        ["--no-ssl-host-verify=true"],
        ["-t", "-h"],
        ["-t", "--x="],
        ["-t", "a", "--access-token", "b"],
        ["-k", "-k"],
        ["-h", "-Z"],
        ["---"],
        ["-="],
        ["--export"],
    ],
    ids=" ".join,
)
def test_sentences_are_those_of_the_reference(argv: list[str]) -> None:
    done = subprocess.run([REFERENCE, *argv], capture_output=True, text=True, check=False)
    with pytest.raises(UsageError) as caught:
        parse_argv(argv)
    assert done.returncode == exit_code_of(caught.value)
    assert done.stderr.splitlines()[0] == str(caught.value)
