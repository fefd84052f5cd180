"""From argv, files and environment to settings: every option from every source."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.refusals import refusal, value_unless_refused
from tailrace.cli.localproxy.layers import Layer, Origin
from tailrace.cli.localproxy.options import OPTIONS, Applies, option_named
from tailrace.cli.localproxy.resolve import (
    Configuration,
    build_settings,
    export_default_settings,
    secrets_of,
)
from tailrace.cli.localproxy.settings import CommandSettings
from tailrace.cli.localproxy.settings_json import default_settings_text
from tailrace.cli.localproxy.values import UsageError
from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.common.event_loop import LoopChoice
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.link.proxy.settings import WebProxy
from tailrace.localproxy.settings import Backend, PeerVersion, ProxySettings
from tailrace.wire import Side

TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU"
CLIENT = "0123456789abcdef0123456789abcdef"
BASE = {"access-token": TOKEN, "region": "us-east-1", "source-listen-port": "5555"}


@pytest.fixture(autouse=True)
def _nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


def environ_of(values: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that gives these options."""
    found = {}
    for name, text in values.items():
        option = option_named(name)
        assert option is not None
        found[option.environment] = text
    return found


def build(
    *argv: str, base: Mapping[str, str] = BASE, stdin: str = "", **more: str
) -> Configuration:
    """Build from ``argv``, options in the environment and further variables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        return build_settings(argv, environ_of(base) | more)


def settings(*argv: str, **more: str) -> ProxySettings:
    return build(*argv, **more).settings.proxy


def value_of(found: Configuration, field: str) -> object:
    """Return a field of the settings of the proxy or of the command."""
    command = found.settings
    return getattr(command, field) if hasattr(command, field) else getattr(command.proxy, field)


def without(*names: str, **others: str) -> dict[str, str]:
    return {name: text for name, text in BASE.items() if name not in names} | others


DESTINATION = without("source-listen-port") | {"destination-app": "22"}


@dataclass(frozen=True)
class Case:
    """An option with a text that is good for it and one that is not."""

    option: str
    good: str
    field: str
    value: object
    bad: str | None
    sentence: str = ""
    base: Mapping[str, str] = field(default_factory=lambda: BASE)


CASES = [
    Case(
        "access-token", "T" * 40, "access_token", Secret("T" * 40), "a\tb", "Access token contains"
    ),
    Case(
        "client-token", CLIENT, "client_token", Secret(CLIENT), "x", "Client token must be between"
    ),
    Case(
        "region",
        "eu-west-1",
        "host",
        "data.tunneling.iot.eu-west-1.amazonaws.com",
        "EU",
        "Region must",
    ),
    Case(
        "proxy-endpoint",
        "[::1]:8443",
        "port",
        8443,
        "x:0",
        "Invalid endpoint specified: x:0",
        without("region"),
    ),
    Case("mode", "src", "side", Side.SOURCE, "SRC", "Mode value is wrong! Allowed values are: src"),
    Case(
        "source-listen-port",
        "A=1,B=/x",
        "services",
        {"A": TCPAddress("", 1), "B": UnixAddress("/x")},
        "1,2",
        "Wrong format for the port mappings! Example: SSH1=5555,SSH2=6666.",
    ),
    Case(
        "destination-app",
        "A=[::1]:22",
        "services",
        {"A": TCPAddress("::1", 22)},
        "0",
        "Port must be between 1 and 65535",
        DESTINATION,
    ),
    Case("local-bind-address", "[::1]", "bind_address", "::1", "a b", "Bind address contains"),
    Case(
        "local-bind-address",
        "10.0.0.1",
        "bind_address",
        "10.0.0.1",
        "localhost:80",
        "Bind address 'localhost:80' is neither",
        DESTINATION,
    ),
    Case(
        "config-dir",
        "{filled}",
        "fallback_services",
        {"SSH": TCPAddress("", 22)},
        "nowhere",
        "Invalid configuration directory: nowhere",
        without("source-listen-port", mode="src"),
    ),
    Case("destination-client-type", "V1", "peer_version", PeerVersion.V1, None),
    Case("destination-client-type", "V2", "peer_version", PeerVersion.V2, None),
    Case("destination-client-type", "V3", "peer_version", PeerVersion.V3, None),
    Case("destination-client-type", "v1", "peer_version", PeerVersion.V3, None),
    Case("capath", "certs", "capath", Path("certs"), "c" * 5000, "Path exceeds maximum"),
    Case(
        "max-connections",
        "128",
        "max_connections",
        128,
        "-1",
        "the argument ('-1') for option '{}' is invalid",
    ),
    Case(
        "linger", "0.5", "linger", 0.5, "soon", "the argument ('soon') for option '{}' is invalid"
    ),
    Case(
        "stall-timeout",
        "60",
        "stall_timeout",
        60.0,
        "0",
        "the argument ('0') for option '{}' is invalid",
    ),
    Case(
        "resume-timeout",
        "0",
        "resume_timeout",
        0.0,
        "86401",
        "the argument ('86401') for option '{}' is invalid",
    ),
    Case(
        "dial-timeout",
        "3",
        "dial_timeout",
        3.0,
        "nan",
        "the argument ('nan') for option '{}' is invalid",
    ),
    Case(
        "connect-timeout",
        "3",
        "connect_timeout",
        3.0,
        "1e9",
        "the argument ('1e9') for option '{}' is invalid",
    ),
    Case(
        "link",
        "websockets",
        "backend",
        Backend.WEBSOCKETS,
        "x",
        "the argument ('x') for option '{}' is invalid. Valid choices are auto, picows",
    ),
    Case(
        "loop",
        "asyncio",
        "loop",
        LoopChoice.ASYNCIO,
        "x",
        "the argument ('x') for option '{}' is invalid. Valid choices are auto, asyncio",
    ),
    Case(
        "allow",
        "127.0.0.1:22,db:1,/run/app.sock",
        "allowed",
        (TCPAddress("127.0.0.1", 22), TCPAddress("db", 1), UnixAddress("/run/app.sock")),
        "db",
        "--allow: Address 'db' has no port",
        DESTINATION,
    ),
    Case("state-dir", "/var/lib/x", "state_dir", Path("/var/lib/x"), "d" * 5000, "Path exceeds"),
    Case(
        "metrics-listen",
        "9100",
        "metrics_listen",
        TCPAddress("localhost", 9100),
        "localhost",
        "--metrics-listen: 'localhost' has no port",
    ),
    Case("ready-file", "ready", "ready_file", Path("ready"), "d" * 5000, "Path exceeds maximum"),
    Case(
        "settings-json",
        "{settings}",
        "ping_period",
        5.0,
        "nowhere",
        "nowhere: cannot open file (No such file or directory)",
    ),
    Case(
        "access-token-file",
        "{token}",
        "access_token",
        Secret(TOKEN),
        "nowhere",
        "Cannot read the access token from nowhere: No such file or directory",
        without("access-token"),
    ),
]
SWITCHES = [
    ("json", "json_events", True),
    ("no-control", "control", False),
    ("no-ssl-host-verify", "verify_tls", False),
    ("no-state", "state_dir", None),
]
LAYERS = ["argv", "file", "environment"]
ORIGINS = {
    "argv": Layer.COMMAND_LINE,
    "file": Layer.CONFIG_FILE,
    "environment": Layer.ENVIRONMENT,
}


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Files that options of the table name."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "settings").write_text(
        json.dumps({"tunneling": {"proxy": {"websocket": {"ping_period_ms": "5000"}}}})
    )
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "a.ini").write_text("SSH = 22\n")
    return {name: str(tmp_path / name) for name in ("token", "settings", "filled")}


def build_from(
    layer: str, name: str, text: str, base: Mapping[str, str], tmp_path: Path
) -> Configuration:
    """Build with one option from ``source``, the base from the environment."""
    rest = {key: value for key, value in base.items() if key != name}
    option = option_named(name)
    assert option is not None
    if layer == "argv":
        return build(f"--{name}", *([] if option.is_switch else [text]), base=rest)
    if layer == "file":
        path = tmp_path / "c.ini"
        path.write_text(f"{name} = {text}\n")
        return build("--config", str(path), base=rest)
    return build(base=rest | {name: text})


def test_the_table_is_complete() -> None:
    elsewhere = {"config", "verbose"}  # test_inputs
    tested = {case.option for case in CASES} | {name for name, _, _ in SWITCHES} | elsewhere
    assert tested == {o.name for o in OPTIONS if o.applies is not Applies.COMMAND}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.option}={case.good[:12]}")
def test_valid(case: Case, layer: str, places: dict[str, str], tmp_path: Path) -> None:
    text = case.good.format(**places) if case.good.startswith("{") else case.good
    found = build_from(layer, case.option, text, case.base, tmp_path)
    assert value_of(found, case.field) == case.value
    if case.option not in ("settings-json", "config-dir"):
        assert found.origins[case.field].layer is ORIGINS[layer]
    assert TOKEN not in repr(found)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.bad is not None],
    ids=lambda case: f"{case.option}={case.good[:12]}",
)
def test_invalid(case: Case, layer: str, tmp_path: Path) -> None:
    assert case.bad is not None
    spelling = f"--{case.option}" if layer == "argv" else case.option
    with pytest.raises(ConfigurationError) as caught:
        build_from(layer, case.option, case.bad, case.base, tmp_path)
    assert str(caught.value).startswith(case.sentence.format(spelling))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("name", "field_name", "value"), SWITCHES)
def test_switches(
    layer: str, name: str, field_name: str, value: bool | None, tmp_path: Path
) -> None:
    found = build_from(layer, name, "true", BASE, tmp_path)
    assert value_of(found, field_name) is value
    assert found.origins[field_name].layer is ORIGINS[layer]
    if layer != "argv":
        off = build_from(layer, name, "false", BASE, tmp_path)
        assert value_of(off, field_name) is not value
        with pytest.raises(UsageError, match="the argument"):
            build_from(layer, name, "perhaps", BASE, tmp_path)


def test_defaults() -> None:
    found = build(XDG_STATE_HOME="/x")
    proxy = ProxySettings(
        side=Side.SOURCE,
        host="data.tunneling.iot.us-east-1.amazonaws.com",
        access_token=Secret(TOKEN),
        services={"": TCPAddress("", 5555)},
        bind_address="localhost",
    )
    state = Path("/x/tailrace-localproxy")
    assert found.settings == CommandSettings(proxy=proxy, state_dir=state)
    assert found.settings.verbosity == 4
    assert found.origins["bind_address"] == Origin()
    assert "ping_period" not in found.origins


def test_defaults_of_a_destination() -> None:
    found = build(base=DESTINATION).settings.proxy
    assert found.side is Side.DESTINATION
    assert found.bind_address == ""


@pytest.mark.parametrize("argv", [["-h"], ["-V", "-h"], ["--export-default-settings", "f"]])
def test_what_asks_for_no_proxy(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="leave out --help, --version and --export"):
        build_settings(argv, {})


ONE_ENDPOINT = "Must specify one and only one of --region/-r or --proxy-endpoint/-e options"
ONE_MAP = "Must specify one and only one of --source-listen-port/-s or --destination-app/-d"


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ({}, "the option '--access-token' is required but missing"),
        ({"region": "us"}, "the option '--access-token' is required but missing"),
        ({"access-token": TOKEN}, ONE_ENDPOINT),
        (BASE | {"proxy-endpoint": "x"}, ONE_ENDPOINT),
        (
            without("source-listen-port"),
            "Must specify one of --source-listen-port/-s or --destination-app/-d or --mode",
        ),
        (BASE | {"destination-app": "22"}, ONE_MAP),
        (BASE | {"destination-app": "22", "mode": "dst"}, ONE_MAP),
        (
            BASE | {"mode": "bogus", "destination-app": "22"},
            "Mode value is wrong! Allowed values are: src, dst, source, destination",
        ),
        (BASE | {"mode": "dst"}, "-s and --mode have mismatched mode. Mode is set to destination!"),
        (
            BASE | {"mode": "destination"},
            "-s and --mode have mismatched mode. Mode is set to destination!",
        ),
        (
            DESTINATION | {"mode": "src"},
            "-s and --mode have mismatched mode. Mode is set to source!",
        ),
        (
            DESTINATION | {"mode": "source"},
            "-s and --mode have mismatched mode. Mode is set to source!",
        ),
        (
            without("source-listen-port", mode="dst"),
            "Destination mode needs --destination-app/-d, or a map of services in --config-dir",
        ),
        (
            BASE | {"access-token-file": "f"},
            "Must specify one and only one of --access-token/-t or --access-token-file",
        ),
    ],
)
def test_options_that_do_not_go_together(base: dict[str, str], sentence: str) -> None:
    argv = [f"--{name}={text}" for name, text in base.items()]
    with pytest.raises(UsageError) as caught:
        build(*argv, base={})
    assert str(caught.value) == sentence
    assert caught.value.hint == ""
    with pytest.raises(UsageError) as caught:
        build(base=base)
    assert str(caught.value) == sentence


def test_hints_name_where_a_value_comes_from() -> None:
    with pytest.raises(UsageError) as caught:
        build("-e", "x")
    assert caught.value.hint == "--region comes from the environment variable AWSIOT_TUNNEL_REGION."


@pytest.mark.parametrize(
    ("argv", "side"),
    [
        (["-m", "src"], Side.SOURCE),
        (["-m", "source"], Side.SOURCE),
        (["-m", "src", "-s", "1"], Side.SOURCE),
        (["-s", "1"], Side.SOURCE),
        (["-s", ""], Side.SOURCE),
        (["-m", "dst", "-d", "1"], Side.DESTINATION),
        (["-m", "destination", "-d", "1"], Side.DESTINATION),
        (["-d", "1"], Side.DESTINATION),
    ],
)
def test_modes(argv: list[str], side: Side) -> None:
    assert build(*argv, base=without("source-listen-port")).settings.proxy.side is side


def test_an_empty_map_is_no_map() -> None:
    assert settings("-s", "").services is None


# -- tokens ------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["-t", "-"], ["--access-token-file", "-"]])
@pytest.mark.parametrize("stdin", [f"{TOKEN}\n", TOKEN, f"  {TOKEN} \r\nrest\n"])
def test_token_from_standard_input(argv: list[str], stdin: str) -> None:
    found = build(*argv, base=without("access-token"), stdin=stdin).settings.proxy
    assert found.access_token == Secret(TOKEN)


def test_nothing_on_standard_input() -> None:
    with pytest.raises(ConfigurationError, match="Access token cannot be empty"):
        build("-t", "-")


def test_standard_input_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xff\n")
    with (
        (tmp_path / "f").open(encoding="utf-8") as stdin,
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ConfigurationError, match="Cannot read the access token from standard input"),
    ):
        patch.setattr(sys, "stdin", stdin)
        build_settings(["-t", "-", "-r", "us", "-s", "1"], {})


def test_the_token_file_of_a_nearer_source_counts(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("other\n")
    assert settings("--access-token-file", str(tmp_path / "t")).access_token == Secret("other")
    (tmp_path / "c").write_text(f"access-token-file = {tmp_path}/t\n")
    found = build("-t", TOKEN, "--config", str(tmp_path / "c")).settings.proxy
    assert found.access_token == Secret(TOKEN)


def test_tokens_in_files_may_look_like_anything(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("/a/b+c=\n")
    found = build("--access-token-file", str(tmp_path / "t"), base=without("access-token"))
    assert found.settings.proxy.access_token == Secret("/a/b+c=")


@pytest.mark.parametrize("token", ["./token", "token.txt", "here"])
def test_file_names_are_refused_as_tokens(token: str) -> None:
    Path("here").touch()
    with pytest.raises(ConfigurationError, match="--access-token-file"):
        settings("-t", token)


def test_the_warning_about_a_token_on_the_command_line(caplog: pytest.LogCaptureFixture) -> None:
    build("-t", TOKEN)
    assert caplog.messages == [
        "Found access token supplied via CLI arg. Consider using environment variable"
        " AWSIOT_TUNNEL_ACCESS_TOKEN instead"
    ]
    caplog.clear()
    build()
    build("-t", "-", stdin=TOKEN)
    assert caplog.messages == []


def test_empty_client_tokens_count_as_none() -> None:
    assert settings(AWSIOT_TUNNEL_CLIENT_TOKEN="").client_token is None


def test_client_tokens_that_aws_refuses(caplog: pytest.LogCaptureFixture) -> None:
    assert settings("-i", "_" * 32).client_token == Secret("_" * 32)
    assert "AWS refuses it" in caplog.text


# -- endpoint, settings file ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us", "data.tunneling.iot.us.amazonaws.com"),
        ("cn-north-1", "data.tunneling.iot.cn-north-1.amazonaws.com.cn"),
        ("cn-northwest-1", "data.tunneling.iot.cn-northwest-1.amazonaws.com.cn"),
    ],
)
@pytest.mark.parametrize("with_file", [False, True])
def test_regions(region: str, host: str, with_file: bool) -> None:
    Path("s.json").write_text("{}")
    argv = ["--settings-json", "s.json"] if with_file else []
    found = build("-r", region, *argv, base=without("region")).settings.proxy
    assert (found.host, found.port) == (host, 443)


def test_region_override_with_port() -> None:
    overrides = {"region_endpoint_overrides": {"lab": "Tunnels.Lab:8443"}}
    Path("s.json").write_text(json.dumps({"tunneling": {"proxy": overrides}}))
    found = build("-r", "lab", "--settings-json", "s.json", base=without("region")).settings.proxy
    assert (found.host, found.port) == ("tunnels.lab", 8443)


def test_settings_file_below_options() -> None:
    tree = {
        "tcp": {"max_active_connections": "7", "connection_retry_count": "5"},
        "default_bind_address": "127.0.0.2",
    }
    Path("s.json").write_text(json.dumps({"tunneling": {"proxy": tree}}))
    found = build("--settings-json", "s.json")
    assert found.settings.proxy.max_connections == 7
    assert found.settings.proxy.dial_retry_count == 5
    assert found.settings.proxy.bind_address == "127.0.0.2"
    assert found.origins["max_connections"] == Origin(
        Layer.SETTINGS_FILE, "tunneling.proxy.tcp.max_active_connections"
    )
    found = build("--settings-json", "s.json", "--max-connections", "9", "-b", "127.0.0.3")
    assert found.settings.proxy.max_connections == 9
    assert found.settings.proxy.bind_address == "127.0.0.3"
    found = build("--settings-json", "s.json", base=DESTINATION)
    assert found.settings.proxy.bind_address == ""


def test_exported_settings_change_nothing() -> None:
    export_default_settings("s.json")
    assert Path("s.json").read_text() == default_settings_text()
    assert settings("--settings-json", "s.json") == settings()


def test_export_that_cannot_be_written() -> None:
    with pytest.raises(ConfigurationError, match=r"^\./no/s\.json: cannot open file \(No such"):
        export_default_settings("./no/s.json")
    with pytest.raises(ConfigurationError, match="Path cannot be empty"):
        export_default_settings("")


def test_settings_file_remarks(caplog: pytest.LogCaptureFixture) -> None:
    tree = {
        "message": {"may_payload_size": "1", "max_size": "7"},
        "websocket": {"subprotocol": "mine"},
    }
    Path("s.json").write_text(json.dumps({"tunneling": {"proxy": tree}}))
    with caplog.at_level(logging.INFO):
        settings("--settings-json", "s.json")
    assert caplog.messages == [
        "Using settings specified in file: s.json",
        "s.json: unknown key tunneling.proxy.message.may_payload_size: ignored."
        " Did you mean 'message.max_payload_size'?",
        "s.json: tunneling.proxy.message.max_size has no effect here",
        "The service is asked for the unknown subprotocol mine",
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"tunneling": {"proxy": {"tcp": {"connection_retry_count": "x"}}}}']
)
def test_settings_file_with_mistakes(text: str) -> None:
    Path("s.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"^s\.json: "):
        settings("--settings-json", "s.json")


# -- web proxy ---------------------------------------------------------------------------------


def test_web_proxy(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = build(HTTPS_PROXY="http://user:hunter2@proxy:3128")
    assert found.settings.proxy.web_proxy == WebProxy(
        "http", "proxy", 3128, "user", Secret("hunter2")
    )
    assert found.origins["web_proxy"] == Origin(Layer.ENVIRONMENT, "HTTPS_PROXY")
    assert "user:<redacted>@proxy:3128" in caplog.text
    assert "hunter2" not in caplog.text


def test_no_proxy(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = settings(https_proxy="http://proxy:1", no_proxy="10.0.0.0/8,.amazonaws.com")
    assert found.web_proxy is None
    assert caplog.messages == [
        "The web proxy of https_proxy is not used: no_proxy covers the endpoint"
    ]


def test_web_proxy_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="environment variable https_proxy: Unsupported"):
        settings(https_proxy="ftp://proxy")


# -- services ---------------------------------------------------------------------------------


def test_the_default_directory_of_services() -> None:
    Path("config").mkdir()
    Path("config/a.ini").write_text("SSH = 2222\nbad = x\n")
    Path("config/readme").write_text("something else")
    base = without("source-listen-port", mode="src")
    found = build(base=base)
    assert found.settings.proxy.services is None
    assert found.settings.proxy.fallback_services == {"SSH": TCPAddress("", 2222)}
    assert found.origins["fallback_services"] == Origin(Layer.CONFIG_DIRECTORY, "config")
    assert build().settings.proxy.fallback_services == {}


def test_a_named_directory_is_strict(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.ini").write_text("SSH = 0\n")
    base = without("source-listen-port", mode="src")
    with pytest.raises(ConfigurationError, match=r"a\.ini, line 1: Port must be between"):
        build("--config-dir", str(tmp_path / "d"), base=base)
    assert settings("--config-dir", str(tmp_path / "d")).fallback_services == {}


def test_a_destination_may_have_only_a_directory(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.ini").write_text("SSH = localhost:22\n")
    base = without("source-listen-port", mode="dst")
    found = build("--config-dir", str(tmp_path / "d"), base=base).settings.proxy
    assert found.fallback_services == {"SSH": TCPAddress("localhost", 22)}


# -- the rest -------------------------------------------------------------------------------------


def test_remarks(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        settings("stray", "-c", "nowhere", "-k", "-y", "V9")
        settings("-y", "V1")
    assert [message[:40] for message in caplog.messages] == [
        "1 arguments belong to no option: ignored",
        "unknown value for destination-client-typ",
        "--capath nowhere has no certificates: ig",
        "SECURITY WARNING: SSL host verification ",
        "setting source protocol to V1",
    ]


def test_certificates_in_a_file_are_nothing_to_warn_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ca.pem").touch()
    (tmp_path / "empty").mkdir()
    assert settings("-c", str(tmp_path / "ca.pem")).capath == tmp_path / "ca.pem"
    assert caplog.messages == []
    settings("-c", str(tmp_path / "empty"))
    assert caplog.messages == [f"--capath {tmp_path / 'empty'} has no certificates: ignored"]


@pytest.mark.parametrize(
    ("argv", "variables", "state_dir", "needed"),
    [
        ([], {}, "/x/tailrace-localproxy", False),
        (["--state-dir", "/s"], {}, "/s", True),
        ([], {"TAILRACE_STATE_DIR": "/s"}, "/s", True),
        (["--no-state"], {}, None, False),
        (["--no-state"], {"TAILRACE_STATE_DIR": "/s"}, None, False),
        (["--state-dir", "/s"], {"TAILRACE_NO_STATE": "yes"}, "/s", True),
        ([], {"TAILRACE_NO_STATE": "no"}, "/x/tailrace-localproxy", False),
    ],
)
def test_the_nearer_of_two_options_says_where_state_is_kept(
    argv: list[str], variables: dict[str, str], state_dir: str | None, needed: bool
) -> None:
    found = build(*argv, XDG_STATE_HOME="/x", **variables).settings
    assert found.state_dir == (None if state_dir is None else Path(state_dir))
    assert found.state_needed is needed


def test_state_is_kept_or_not() -> None:
    with pytest.raises(UsageError, match="Must specify only one of --state-dir and --no-state"):
        build("--state-dir", "/s", "--no-state")


def test_a_user_without_a_home_is_warned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pwd", None)
    assert build().settings.state_dir is None
    assert [message[:33] for message in caplog.messages] == [
        "This user has no home directory to"[:33]
    ]
    caplog.clear()
    build("--no-state")
    build("-i", CLIENT)
    assert caplog.messages == []


def test_secrets_of() -> None:
    found = settings("-i", CLIENT, https_proxy="http://u:p%2Fw@x:1")
    texts = {secret.reveal() for secret in secrets_of(found)}
    assert texts == {TOKEN, CLIENT, "p/w", "p%2Fw", "dTpwL3c="}
    assert {secret.reveal() for secret in secrets_of(settings())} == {TOKEN}


@given(
    st.dictionaries(
        st.sampled_from(
            [
                o
                for o in OPTIONS
                if o.environment
                and o.name not in ("config", "settings-json", "config-dir", "access-token-file")
            ]
        ),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    ),
    st.dictionaries(st.sampled_from(["https_proxy", "no_proxy"]), st.text(max_size=12)),
)
def test_any_environment_is_a_configuration_or_an_error(
    given_options: dict[object, str], proxies: dict[str, str]
) -> None:
    environ = (
        environ_of(BASE) | {o.environment: text for o, text in given_options.items()} | proxies
    )
    found = value_unless_refused(build_settings, [], environ)
    assert found is None or found.settings.proxy.access_token


# -- the allow-list ----------------------------------------------------------------------------

FORBIDDEN = "is not in the allow-list from the"


@pytest.mark.parametrize(
    ("map_of_services", "allowed", "sentence"),
    [
        ("22", "22", ""),
        ("22", "127.0.0.1:22", ""),
        ("SSH=127.0.0.1:22,WEB=/run/web", "/run/web,127.0.0.1:22,[::1]:80", ""),
        (
            "22",
            "23",
            "22, the application from the environment variable TAILRACE_DESTINATION_APP,"
            f" {FORBIDDEN} command line --allow: 23",
        ),
        (
            "SSH=22,DB=db:5432",
            "127.0.0.1:22,localhost:5432",
            "db:5432, the application of service DB from the environment variable"
            f" TAILRACE_DESTINATION_APP, {FORBIDDEN} command line --allow:"
            " 127.0.0.1:22,localhost:5432",
        ),
    ],
)
def test_a_map_beyond_the_allow_list(map_of_services: str, allowed: str, sentence: str) -> None:
    base = DESTINATION | {"destination-app": map_of_services}
    assert refusal(build, "--allow", allowed, base=base) == sentence


def test_files_beyond_the_allow_list(tmp_path: Path) -> None:
    (tmp_path / "a.ini").write_text("SSH = 22\nROUTER = 192.168.1.1:80\n")
    base = without("source-listen-port") | {"mode": "dst", "allow": "127.0.0.1:22"}
    said = refusal(build, "--config-dir", str(tmp_path), base=base)
    assert said.startswith("192.168.1.1:80, the application of service ROUTER from the")
    assert said.endswith(f"{FORBIDDEN} environment variable TAILRACE_ALLOW: 127.0.0.1:22")


def test_a_source_has_nothing_to_allow() -> None:
    assert settings("--allow", "127.0.0.1:22").services == {"": TCPAddress("", 5555)}
