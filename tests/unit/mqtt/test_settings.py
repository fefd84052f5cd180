"""Brokers: what URLs and endpoints are understood, and which are refused."""

from pathlib import Path
from typing import Any

import pytest
import trustme

from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.mqtt.settings import aws_broker, parse_mqtt_url


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("mqtt://broker", "mqtt://broker:1883"),
            ("mqtts://broker", "mqtts://broker:8883"),
            ("mqtt://u:p@[::1]:99/", "mqtt://[::1]:99"),
            ("mqtt://[fe80::1%eth0]", "mqtt://[fe80::1%eth0]:1883"),
        ],
    )
    def test_good_ones(self, url: str, said: str) -> None:
        assert str(parse_mqtt_url(url, {})) == said

    def test_where_it_is(self) -> None:
        endpoint = parse_mqtt_url("mqtt://[::1]:99", {}).endpoint(3.0)
        assert (endpoint.authority, endpoint.connect_timeout) == ("[::1]:99", 3.0)
        broker = parse_mqtt_url("mqtts://broker", {})
        assert broker.endpoint(3.0).tls is broker.tls

    def test_credentials(self) -> None:
        settings = parse_mqtt_url("mqtt://a%40b:c%3Ad@h", {"TAILRACE_MQTT_PASSWORD": "other"})
        assert settings.user == "a@b"
        assert settings.password == Secret("c:d")
        environment = {"TAILRACE_MQTT_USER": "u", "TAILRACE_MQTT_PASSWORD": "p"}
        settings = parse_mqtt_url("mqtt://h", environment)
        assert (settings.user, settings.password) == ("u", Secret("p"))
        settings = parse_mqtt_url("mqtt://h", {"TAILRACE_MQTT_USER": ""})
        assert (settings.user, settings.password) == (None, None)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "http://h",
            "mqtt://",
            "mqtt://:s3cret@",
            "mqtt://u:s3cret@h:port",
            "mqtt://h/topic",
            "mqtt://h?x=s3cret",
            "mqtt://u:1#s3cret@h",
            "mqtt://h:0",
            "mqtt://a_b..c",
            "mqtts://[fe80::1%25eth0]",
            "mqtt://[s3cret",
        ],
    )
    def test_bad_ones(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match="mqtt_url") as caught:
            parse_mqtt_url(url, {})
        assert "s3cret" not in str(caught.value)

    def test_a_password_without_a_user(self) -> None:
        with pytest.raises(ConfigurationError, match="TAILRACE_MQTT_USER"):
            parse_mqtt_url("mqtt://h", {"TAILRACE_MQTT_PASSWORD": "p"})

    @pytest.mark.parametrize("option", ["ca", "cert", "key"])
    def test_certificates_without_tls(self, option: str) -> None:
        values: dict[str, Any] = {option: Path("x.pem")}
        with pytest.raises(ConfigurationError, match=f"mqtt_{option} needs"):
            parse_mqtt_url("mqtt://h", {}, **values)

    def test_a_key_alone(self) -> None:
        with pytest.raises(ConfigurationError, match="mqtt_cert"):
            parse_mqtt_url("mqtts://h", {}, key=Path("key.pem"))

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        junk = tmp_path / "junk.pem"
        junk.write_text("junk")
        for path in (junk, tmp_path / "missing.pem"):
            with pytest.raises(ConfigurationError, match="mqtt_ca"):
                parse_mqtt_url("mqtts://h", {}, ca=path)
            with pytest.raises(ConfigurationError, match="mqtt_cert"):
                parse_mqtt_url("mqtts://h", {}, cert=path)

    @pytest.mark.parametrize("text", ["a%00b", "%ff" * 30_000])
    def test_credentials_that_do_not_fit(self, text: str) -> None:
        with pytest.raises(ConfigurationError, match="mqtt_url must be UTF-8 without NUL"):
            parse_mqtt_url(f"mqtt://{text}:p@h", {})
        with pytest.raises(ConfigurationError, match="mqtt_url must be UTF-8 without NUL"):
            parse_mqtt_url("mqtt://h", {"TAILRACE_MQTT_USER": "\udcff"})

    def test_a_pipe(self, tmp_path: Path) -> None:
        import os

        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ConfigurationError, match=r"mqtt_ca .*pipe is a pipe"):
            parse_mqtt_url("mqtts://h", {}, ca=tmp_path / "pipe")


class TestAws:
    HOST = "a1b2c3-ats.iot.eu-west-1.amazonaws.com"

    @pytest.fixture
    def cert(self, tmp_path: Path) -> Path:
        path = tmp_path / "thing.pem"
        trustme.CA().issue_cert("thing.example").private_key_and_cert_chain_pem.write_to_path(path)
        return path

    @pytest.mark.parametrize(
        ("port", "alpn", "offered"),
        [
            (8883, None, ()),
            (443, None, ("x-amzn-mqtt-ca",)),
            (443, "mqtt", ("mqtt",)),
            (443, "", ()),
            (8883, "x-amzn-mqtt-ca", ("x-amzn-mqtt-ca",)),
        ],
    )
    def test_what_is_offered(
        self, cert: Path, port: int, alpn: str | None, offered: tuple[str, ...]
    ) -> None:
        broker = aws_broker(self.HOST, cert=cert, port=port, alpn=alpn)
        assert (broker.host, broker.port, broker.is_aws) == (self.HOST, port, True)
        assert broker.tls is not None
        assert broker.tls.alpn == offered
        assert broker.tls.certificate == cert
        assert str(broker) == f"mqtts://{self.HOST}:{port}"

    @pytest.mark.parametrize("host", ["", "a:8883", "https://a", "a/b", "a b", "::1"])
    def test_hosts_that_are_none(self, cert: Path, host: str) -> None:
        with pytest.raises(ConfigurationError, match=r"^endpoint '.*describe-endpoint") as caught:
            aws_broker(host, cert=cert)
        assert caught.value.setting == "endpoint"

    def test_the_old_endpoint(self, cert: Path) -> None:
        with pytest.raises(ConfigurationError, match="use the one with -ats"):
            aws_broker("a1b2c3.iot.eu-west-1.amazonaws.com", cert=cert)
        assert aws_broker("iot.factory.example", cert=cert).host == "iot.factory.example"

    @pytest.mark.parametrize("alpn", ["x" * 256, "ä"])
    def test_protocols_that_cannot_be_offered(self, cert: Path, alpn: str) -> None:
        with pytest.raises(ConfigurationError, match=r"^alpn .* is not the name of a protocol"):
            aws_broker(self.HOST, cert=cert, alpn=alpn)

    def test_files_that_are_none(self, tmp_path: Path, cert: Path) -> None:
        with pytest.raises(ConfigurationError, match="mqtt_cert"):
            aws_broker(self.HOST, cert=tmp_path / "missing.pem")
        with pytest.raises(ConfigurationError, match="mqtt_ca"):
            aws_broker(self.HOST, cert=cert, ca=tmp_path / "missing.pem")
