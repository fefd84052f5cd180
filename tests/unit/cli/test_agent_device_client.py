"""Settings of AWS IoT Device Client, taken over by the agent."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tailrace.agent import device_client
from tailrace.cli.agent import add_agent_parser
from tailrace.cli.agent_device_client import adopt_device_client
from tailrace.cli.parser import CommandParser
from tailrace.errors import ConfigurationError
from tailrace.link.proxy.settings import parse_web_proxy

CONFIG = {
    "endpoint": "abc-ats.iot.eu-west-1.amazonaws.com",
    "cert": "~/pump.pem",
    "key": "~/pump.key",
    "root-ca": "~/ca.pem",
    "thing-name": "pump-7",
    "logging": {"level": "WARN"},
    "tunneling": {"endpoint": "data.example:7444"},
}
PROXY = {
    "http-proxy-enabled": True,
    "http-proxy-host": "10.0.0.1",
    "http-proxy-port": "3128",
    "http-proxy-auth-method": "UserNameAndPassword",
    "http-proxy-username": "user",
    "http-proxy-password": "pass:word",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for name in ("pump.pem", "pump.key", "ca.pem"):
        (tmp_path / name).touch(0o600)
    return tmp_path


def arguments(home: Path, *argv: str) -> argparse.Namespace:
    parser = CommandParser(prog="tailrace")
    add_agent_parser(parser.add_subparsers(dest="command"))
    config = ["--device-client-config", str(home / "config.json")]
    return parser.parse(["agent", "run", *config, *argv])


def test_what_no_option_says_is_taken_over(home: Path) -> None:
    args = arguments(home)
    adopted = adopt_device_client(args, {"HOME": str(home)})
    assert (args.endpoint, args.thing_name) == (CONFIG["endpoint"], "pump-7")
    assert (args.cert, args.key, args.ca) == tuple(
        home / name for name in ("pump.pem", "pump.key", "ca.pem")
    )
    assert (args.capath, args.proxy_endpoint) == (home / "ca.pem", "data.example:7444")
    assert args.log_level == "warning"
    assert list(adopted.services) == ["SSH", "VNC"]
    assert any("jobs" in warning for warning in adopted.warnings)


def test_options_go_first(home: Path) -> None:
    given = ["--thing-name", "pump-8", "--endpoint", "other", "--cert", "c.pem", "--capath", "x"]
    args = arguments(home, *given, "--log-level", "debug", "--proxy-endpoint", "h")
    adopt_device_client(args, {"HOME": str(home)})
    assert (args.thing_name, args.endpoint, args.log_level) == ("pump-8", "other", "debug")
    assert (args.cert, args.key, args.ca) == (Path("c.pem"), None, None)
    assert (args.capath, args.proxy_endpoint) == (Path("x"), "h")
    args = arguments(home, "--broker", "mqtt://h")
    adopt_device_client(args, {"HOME": str(home)})
    assert (args.endpoint, args.cert) == (None, None)


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", None])
def test_the_web_proxy_goes_where_the_others_look(home: Path, variable: str | None) -> None:
    directory = home / ".aws-iot-device-client"
    directory.mkdir()
    (directory / "http-proxy.conf").write_text(json.dumps(PROXY))
    environment = {"HOME": str(home)} | ({variable: "http://other:1"} if variable else {})
    before = dict(environment)
    adopt_device_client(arguments(home), environment)
    if variable is not None:
        assert environment == before
    else:
        proxy = parse_web_proxy(environment["https_proxy"])
        assert (proxy.host, proxy.username) == ("10.0.0.1", "user")
        assert proxy.password.reveal() == "pass:word"


def test_without_the_option_nothing_changes(home: Path) -> None:
    args = arguments(home)
    args.device_client_config = None
    adopted = adopt_device_client(args, {})
    assert (args.endpoint, adopted.services, adopted.warnings) == (None, {}, ())


def test_a_user_without_a_home_is_told(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs HOME"):
        adopt_device_client(arguments(home), {})


def test_device_client_must_not_run_with_the_same_client_id(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ConfigurationError("it is running")

    monkeypatch.setattr(device_client, "check_device_client_is_not_running", refuse)
    with pytest.raises(ConfigurationError, match="it is running"):
        adopt_device_client(arguments(home), {"HOME": str(home)})
    adopt_device_client(arguments(home, "--client-id", "other"), {"HOME": str(home)})
