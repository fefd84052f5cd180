"""Notifications over a real broker: it goes and comes back, asks for passwords, keys."""

import asyncio
import json
import logging
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import trustme

from support.processes.mosquitto import Broker, broker, needs_mosquitto, started
from support.waiting import HANG
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.service.notify.base import Notification, NotifyFailed
from tailrace.service.notify.mqtt import MqttNotifier, MqttSettings, _Connection, parse_mqtt_url
from tailrace.service.notify.outbox import Outbox, OutboxSettings

TOKEN = "trt_the-text-of-a-token"


def notification(tunnel: str = "t1", text: str = TOKEN) -> Notification:
    return Notification(tunnel, "AK", "lamp", Secret(text), "us-east-1", ("SSH",), 9e9)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Broker]:
    with broker(tmp_path) as running:
        yield running


@asynccontextmanager
async def notifying(settings: MqttSettings, **options: Any) -> AsyncIterator[MqttNotifier]:
    notifier = MqttNotifier(settings, **options)
    try:
        yield notifier
    finally:
        await notifier.close()


@asynccontextmanager
async def subscribed(
    port: int, topic: str = "$aws/things/lamp/tunnels/notify", **options: Any
) -> AsyncIterator[aiomqtt.Client]:
    async with aiomqtt.Client("127.0.0.1", port, **options) as client:
        await client.subscribe(topic, qos=1)
        yield client


async def receive(client: aiomqtt.Client) -> aiomqtt.Message:
    async with asyncio.timeout(HANG):
        async for message in client.messages:
            return message
    raise AssertionError("no message")


@needs_mosquitto
class TestBroker:
    async def test_the_thing_gets_the_token(self, plain: Broker, loop_kind: str) -> None:
        async with (
            notifying(MqttSettings("127.0.0.1", plain.port)) as notifier,
            subscribed(plain.port) as thing,
        ):
            await notifier.deliver(notification())
            message = await receive(thing)
        assert message.qos == 1
        assert not message.retain
        assert isinstance(message.payload, bytes)
        assert json.loads(message.payload) == notification().document()

    async def test_many_at_once_share_one_connection(
        self, plain: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = 0
        connect = _Connection.open

        async def count(settings: MqttSettings, timeout: float) -> _Connection:
            nonlocal opened
            opened += 1
            return await connect(settings, timeout)

        monkeypatch.setattr(_Connection, "open", count)
        async with (
            notifying(MqttSettings("127.0.0.1", plain.port)) as notifier,
            subscribed(plain.port) as thing,
            asyncio.TaskGroup() as group,
        ):
            for number in range(20):
                group.create_task(notifier.deliver(notification(f"t{number}", f"token{number}")))
            tokens = set()
            for _ in range(20):
                payload = (await receive(thing)).payload
                assert isinstance(payload, bytes)
                tokens.add(json.loads(payload)["clientAccessToken"])
            assert tokens == {f"token{number}" for number in range(20)}
        assert opened == 1

    async def test_a_broker_that_was_away(
        self,
        plain: Broker,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What is put while it is down arrives once it is back, exactly once."""
        caplog.set_level(1)
        settings = OutboxSettings(retry_first=0.05, retry_most=0.1)
        outbox = Outbox(MqttNotifier(MqttSettings("127.0.0.1", plain.port)), lambda: 0.0, settings)
        outbox.start()
        try:
            async with subscribed(plain.port) as thing:
                outbox.put(notification("t1", "first"))
                await receive(thing)
            plain.stop()
            outbox.put(notification("t2", "second"))
            async with asyncio.timeout(HANG):
                while not outbox.failed:
                    await asyncio.sleep(0.01)
            # The subscription has to be there before the outbox is: a session that
            # the broker keeps in memory would be lost with it.
            gate = asyncio.Event()
            deliver = outbox._notifier.deliver

            async def held_back(notification: Notification) -> None:
                await gate.wait()
                await deliver(notification)

            monkeypatch.setattr(outbox._notifier, "deliver", held_back)
            await started(plain)
            async with subscribed(plain.port) as thing:
                gate.set()
                message = await receive(thing)
                assert isinstance(message.payload, bytes)
                assert json.loads(message.payload)["clientAccessToken"] == "second"
                outbox.put(notification("t3", "third"))
                message = await receive(thing)
                assert isinstance(message.payload, bytes)
                assert json.loads(message.payload)["clientAccessToken"] == "third"
        finally:
            await outbox.stop()
        assert (outbox.delivered, outbox.waiting) == (3, 0)
        assert not any(text in caplog.text for text in ("second", "third"))

    async def test_a_broker_that_restarts_while_idle(self, plain: Broker) -> None:
        async with notifying(MqttSettings("127.0.0.1", plain.port)) as notifier:
            await notifier.deliver(notification())
            connection = notifier._connection
            assert connection is not None
            plain.stop()
            await asyncio.wait([connection._watcher], timeout=HANG)
            assert connection.lost
            await started(plain)
            async with subscribed(plain.port) as thing:
                await notifier.deliver(notification("t2", "after"))
                message = await receive(thing)
                assert b"after" in bytes(message.payload)

    async def test_no_broker(self, plain: Broker) -> None:
        plain.stop()
        async with notifying(MqttSettings("127.0.0.1", plain.port)) as notifier:
            with pytest.raises(NotifyFailed):
                await notifier.deliver(notification())

    async def test_user_and_password_over_tls(self, tmp_path: Path) -> None:
        ca = trustme.CA()
        options = _tls_options(tmp_path, ca)
        passwords = tmp_path / "passwords"
        passwords.write_text("")
        passwords.chmod(0o600)
        await asyncio.to_thread(
            subprocess.run,
            ["mosquitto_passwd", "-b", str(passwords), "tail", "p@ss:word"],
            check=True,
            capture_output=True,
        )
        options += ["allow_anonymous false", f"password_file {passwords}"]
        ca_file = tmp_path / "ca.pem"
        with broker(tmp_path, options) as running:
            url = f"mqtts://tail:p%40ss%3Aword@localhost:{running.port}"
            settings = parse_mqtt_url(url, {}, ca=ca_file)
            async with (
                notifying(settings) as notifier,
                subscribed(
                    running.port,
                    username="tail",
                    password="p@ss:word",
                    tls_context=settings.tls,
                ) as thing,
            ):
                assert "p@ss" not in notifier.name + repr(settings)
                await notifier.deliver(notification())
                assert TOKEN.encode() in bytes((await receive(thing)).payload)
            wrong = parse_mqtt_url(
                f"mqtts://localhost:{running.port}",
                {"TAILRACE_MQTT_USER": "tail", "TAILRACE_MQTT_PASSWORD": "wrong"},
                ca=ca_file,
            )
            async with notifying(wrong) as notifier:
                with pytest.raises(NotifyFailed) as caught:
                    await notifier.deliver(notification())
                assert "wrong" not in str(caught.value)
            # An authority that is not the broker's.
            distrusting = parse_mqtt_url(url, {})
            async with notifying(distrusting) as notifier:
                with pytest.raises(NotifyFailed, match="certificate"):
                    await notifier.deliver(notification())

    async def test_a_client_certificate(self, tmp_path: Path) -> None:
        ca = trustme.CA()
        options = _tls_options(tmp_path, ca)
        options += ["require_certificate true", "use_identity_as_username true"]
        certificate = ca.issue_cert("tailrace.example", common_name="tailrace")
        cert, key = tmp_path / "client.pem", tmp_path / "client.key"
        certificate.cert_chain_pems[0].write_to_path(cert)
        certificate.private_key_pem.write_to_path(key)
        with broker(tmp_path, options) as running:
            url = f"mqtts://localhost:{running.port}"
            known = parse_mqtt_url(url, {}, ca=tmp_path / "ca.pem", cert=cert, key=key)
            async with (
                notifying(known) as notifier,
                subscribed(running.port, tls_context=known.tls) as thing,
            ):
                await notifier.deliver(notification())
                assert TOKEN.encode() in bytes((await receive(thing)).payload)
            stranger = parse_mqtt_url(url, {}, ca=tmp_path / "ca.pem")
            async with notifying(stranger, timeout=1.0) as notifier:
                with pytest.raises(NotifyFailed):
                    await notifier.deliver(notification())


def _tls_options(directory: Path, ca: trustme.CA) -> list[str]:
    ca.cert_pem.write_to_path(directory / "ca.pem")
    certificate = ca.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(directory / "broker.pem")
    certificate.private_key_pem.write_to_path(directory / "broker.key")
    return [
        "allow_anonymous true",
        f"cafile {directory / 'ca.pem'}",
        f"certfile {directory / 'broker.pem'}",
        f"keyfile {directory / 'broker.key'}",
    ]


async def test_a_broker_that_says_nothing() -> None:
    """Something accepts the connection and stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = MqttSettings("127.0.0.1", silent.getsockname()[1])
        async with notifying(settings, timeout=0.2) as notifier:
            with pytest.raises(NotifyFailed, match="timed out"):
                await notifier.deliver(notification())


async def test_stopping_while_it_connects() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = MqttSettings("127.0.0.1", silent.getsockname()[1])
        notifier = MqttNotifier(settings, timeout=1.0)
        delivery = asyncio.get_running_loop().create_task(notifier.deliver(notification()))
        silent.settimeout(HANG)
        accepted, _ = await asyncio.to_thread(silent.accept)
        with accepted:
            delivery.cancel()
            await asyncio.wait([delivery])
            assert delivery.cancelled()
            await notifier.close()


async def test_a_broker_that_dies_before_it_acknowledges() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(bytes((0x20, 2, 0, 0)))
        await reader.readuntil(b"notify")
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        settings = MqttSettings("127.0.0.1", server.sockets[0].getsockname()[1])
        async with notifying(settings, timeout=1e6) as notifier, asyncio.timeout(HANG):
            with pytest.raises(NotifyFailed, match="lost"):
                await notifier.deliver(notification())


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("mqtt://broker", "mqtt://broker:1883"),
            ("mqtts://broker", "mqtts://broker:8883"),
            ("mqtt://u:p@[::1]:99/", "mqtt://[::1]:99"),
        ],
    )
    def test_good_ones(self, url: str, said: str) -> None:
        assert str(parse_mqtt_url(url, {})) == said

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

    def test_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ConfigurationError, match=r"needs the package aiomqtt: .*\[mqtt\]"):
            parse_mqtt_url("mqtt://h", {})


def test_packets_are_never_logged() -> None:
    from tailrace.service.notify.mqtt import _quiet_logger

    assert _quiet_logger().level == logging.ERROR
