"""What counts for an option: command line before file before environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.cli.localproxy.argv import parse_argv
from tailrace.cli.localproxy.layers import Inputs, Layer, Origin, gather
from tailrace.cli.localproxy.options import OPTIONS, Option
from tailrace.cli.localproxy.values import UsageError
from tailrace.common.secret import Secret

TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU"
WITH_VARIABLE = [o for o in OPTIONS if o.environment and o.name != "config"]


def collect(*argv: str, **environ: str) -> Inputs:
    return gather(parse_argv(argv), environ)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.ini"


def texts(option: Option) -> tuple[str, str, str]:
    """Return three values of ``option``."""
    if option.choices:
        first, second, third = option.choices
        return first, second, third
    return ("yes", "off", "yes") if option.is_switch else ("1", "2", "3")


@pytest.mark.parametrize("option", WITH_VARIABLE, ids=lambda option: option.name)
def test_precedence_of_every_option(option: Option, file: Path) -> None:
    on_line, in_file, in_variable = texts(option)
    argument = f"--{option.name}" if option.is_switch else f"--{option.name}={on_line}"
    file.write_text(f"# first line\n{option.name} = {in_file}\n")
    environ = {option.environment: in_variable}

    def origin(*argv: str) -> tuple[Origin, object]:
        given = collect(*argv, **environ).given[option.name]
        return given.origin, given.value

    in_argv = collect(argument).given[option.name].value
    assert origin(argument, "--config", str(file)) == (
        Origin(Layer.COMMAND_LINE, f"--{option.name}"),
        in_argv,
    )
    assert origin("--config", str(file))[0] == Origin(Layer.CONFIG_FILE, f"{file}, line 2")
    assert origin()[0] == Origin(Layer.ENVIRONMENT, option.environment)
    values = [origin(*argv)[1] for argv in ([argument], ["--config", str(file)], [])]
    assert values[0] != values[1] != values[2]


def test_the_file_may_be_named_by_the_environment(file: Path) -> None:
    file.write_text("region = us\nconfig = /nonexistent\n")
    inputs = collect(TAILRACE_CONFIG=str(file))
    assert inputs.require("region").value == "us"
    assert inputs.require("config").origin == Origin(Layer.ENVIRONMENT, "TAILRACE_CONFIG")


@pytest.mark.parametrize("name", ["help", "version", "export-default-settings"])
def test_files_cannot_ask_for_another_action(file: Path, name: str) -> None:
    file.write_text(f"{name} = 1\n")
    assert name in collect("--config", str(file)).given


def test_empty_variables() -> None:
    inputs = collect(
        AWSIOT_TUNNEL_REGION="", AWSIOT_TUNNEL_ACCESS_TOKEN="", TAILRACE_MODE="", TAILRACE_JSON=""
    )
    assert set(inputs.given) == {"region", "access-token"}


def test_values_that_are_none() -> None:
    with pytest.raises(UsageError) as caught:
        collect(TAILRACE_VERBOSE="loud")
    assert str(caught.value) == "the argument ('loud') for option 'verbose' is invalid"
    assert caught.value.hint == (
        "It comes from the environment variable TAILRACE_VERBOSE."
        " Give a whole number from 0 to 65535."
    )


def test_overridden_variables_are_not_looked_at() -> None:
    assert collect("-v", "5", TAILRACE_VERBOSE="loud").verbosity == 5


@pytest.mark.parametrize(
    ("argv", "environ", "verbosity"),
    [([], {}, 4), (["-v0"], {}, 0), ([], {"TAILRACE_VERBOSE": "6"}, 6)],
)
def test_verbosity(argv: list[str], environ: dict[str, str], verbosity: int) -> None:
    assert collect(*argv, **environ).verbosity == verbosity


def test_require() -> None:
    with pytest.raises(UsageError, match=r"^the option '--access-token' is required but missing$"):
        collect().require("access-token")


def test_secrets() -> None:
    inputs = collect("-t", TOKEN, AWSIOT_TUNNEL_CLIENT_TOKEN="c" * 32)
    assert set(inputs.secrets()) == {Secret(TOKEN), Secret("c" * 32)}
    assert TOKEN not in repr(inputs)
    assert collect("-t", "-").secrets() == ()


def test_elsewhere(file: Path) -> None:
    file.write_text("region = us\n")
    inputs = collect("--config", str(file), "-e", "x", TAILRACE_MODE="src")
    assert inputs.elsewhere("region", "proxy-endpoint", "mode", "capath") == (
        f"--region comes from the configuration file {file}, line 1."
        " --mode comes from the environment variable TAILRACE_MODE."
    )


def test_strays_are_counted() -> None:
    assert collect("a", "b").positional == 2


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin(), "default"),
        (Origin(Layer.COMMAND_LINE, "-t"), "command line -t"),
        (Origin(Layer.SETTINGS_FILE, "a.b"), "settings file a.b"),
        (Origin(Layer.CONFIG_DIRECTORY, "d"), "configuration directory d"),
    ],
)
def test_origins_print(origin: Origin, text: str) -> None:
    assert str(origin) == text
