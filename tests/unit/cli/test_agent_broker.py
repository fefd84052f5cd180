"""What the agent is told about its broker."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import trustme

from tailrace.cli.agent_broker import add_broker_options, read_broker
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError

HOST = "a1b2c3-ats.iot.eu-west-1.amazonaws.com"


def parse(*argv: str, thing: str | None = "pump-7") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_broker_options(parser.add_argument_group("broker"))
    args = parser.parse_args(argv)
    args.thing_name = thing
    return args


@pytest.fixture
def cert(tmp_path: Path) -> str:
    path = tmp_path / "thing.pem"
    trustme.CA().issue_cert("thing.example").private_key_and_cert_chain_pem.write_to_path(path)
    return str(path)


def test_none() -> None:
    assert read_broker(parse(thing=None), {}) is None


def test_aws(cert: str) -> None:
    settings = read_broker(parse("--endpoint", HOST, "--cert", cert), {})
    assert settings is not None
    assert str(settings.broker) == f"mqtts://{HOST}:8883"
    assert (settings.thing_name, settings.client_id, settings.keep_alive) == (
        "pump-7",
        "pump-7",
        45,
    )
    assert settings.topics.topic("x") == "$aws/things/x/tunnels/notify"
    assert settings.web_proxy is None
    settings = read_broker(parse("--endpoint", HOST, "--cert", cert, "--port", "443"), {})
    assert settings is not None
    assert settings.broker.tls is not None
    assert settings.broker.tls.alpn == ("x-amzn-mqtt-ca",)


def test_another_broker(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("from a file\n")
    argv = ["--broker", "mqtt://b.example", "--client-id", "c", "--keep-alive", "60"]
    argv += ["--notify-topic", "d/{thing}", "--password-file", str(password)]
    environment = {
        "TAILRACE_MQTT_USER": "u",
        "TAILRACE_MQTT_PASSWORD": "p",
        "https_proxy": "http://p:1",
    }
    settings = read_broker(parse(*argv), environment)
    assert settings is not None
    assert str(settings.broker) == "mqtt://b.example:1883"
    assert (settings.broker.user, settings.broker.password) == ("u", Secret("from a file"))
    assert (settings.client_id, settings.keep_alive) == ("c", 60)
    assert settings.topics.topic("x") == "d/x"
    assert settings.web_proxy is None


def test_the_web_proxy_of_the_environment() -> None:
    environment = {"https_proxy": "http://proxy.example:3128", "no_proxy": "near.example"}
    settings = read_broker(parse("--broker", "mqtts://b.example"), environment)
    assert settings is not None
    assert str(settings.web_proxy) == "http://proxy.example:3128"
    settings = read_broker(parse("--broker", "mqtts://near.example"), environment)
    assert settings is not None
    assert settings.web_proxy is None


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--cert", "x"], "^--cert needs --endpoint or --broker$"),
        (["--port", "443"], "^--port needs --endpoint or --broker$"),
        (["--endpoint", HOST, "--broker", "mqtt://b"], "two brokers"),
        (["--endpoint", HOST], "^--endpoint needs --cert: "),
        (["--endpoint", HOST, "--cert", "CERT", "--port", "0"], "^--port 0 is not"),
        (["--endpoint", HOST, "--cert", "CERT", "--password-file", "x"], "needs --broker$"),
        (["--endpoint", "a b", "--cert", "CERT"], "^--endpoint 'a b' must be"),
        (["--endpoint", HOST, "--cert", "/none/x.pem"], "^--cert /none/x.pem: No such"),
        (["--endpoint", HOST, "--cert", "CERT", "--alpn", "ä"], "^--alpn 'ä' is not"),
        (["--broker", "http://b"], "^--broker must be mqtt://HOST"),
        (["--broker", "mqtt://b", "--cert", "CERT"], "^--cert needs --broker with mqtts://"),
        (["--broker", "mqtt://b", "--port", "1"], "^--port needs --endpoint; the port of"),
        (["--broker", "mqtt://b", "--password-file", "/none/x"], "/none/x cannot be read: No such"),
        (["--broker", "mqtt://b", "--password-file", "/dev/null"], "/dev/null is empty"),
        (["--broker", "mqtt://b", "--notify-topic", "x"], "^--notify-topic 'x' must hold"),
        (["--broker", "mqtt://b", "--keep-alive", "4"], "^--keep-alive 4 is not from 5 to 1200"),
        (["--broker", "mqtt://b", "--client-id", "a\n"], "^--client-id must be printable"),
        (["--broker", "mqtt://b", "--client-id", "\udcff"], "^--client-id must be printable"),
        (["--broker", "mqtt://b", "--client-id", "ä" * 65], "^--client-id must be printable"),
    ],
)
def test_what_does_not_fit(argv: list[str], text: str, cert: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        read_broker(parse(*(cert if each == "CERT" else each for each in argv)), {})
    assert caught.value.setting.startswith("--")


@pytest.mark.parametrize(("thing", "text"), [(None, "needs --thing-name"), ("a/b", "'a/b' is not")])
def test_things(thing: str | None, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        read_broker(parse("--broker", "mqtt://b", thing=thing), {})
