"""Notifications over a real broker: it goes and comes back, asks for passwords, keys."""

import asyncio
import json
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import trustme

from support.network.scripted_broker import BrokerPeer, message, packet, scripted_broker
from support.processes.mosquitto import Broker, broker, needs_mosquitto, started
from support.waiting import HANG
from tailrace.common.secret import Secret
from tailrace.mqtt.settings import BrokerSettings, parse_mqtt_url
from tailrace.service.notify.base import Notification, NotifierDown, NotifyFailed
from tailrace.service.notify.mqtt import MqttNotifier, _Publisher
from tailrace.service.notify.outbox import Outbox, OutboxSettings

TOKEN = "trt_the-text-of-a-token"
TOPIC = "$aws/things/lamp/tunnels/notify"

PUBLISH_1 = 0x32


def notification(tunnel: str = "t1", text: str = TOKEN) -> Notification:
    return Notification(tunnel, "AK", "lamp", TOPIC, Secret(text), "us-east-1", ("SSH",), 9e9)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Broker]:
    with broker(tmp_path) as running:
        yield running


@asynccontextmanager
async def notifying(settings: BrokerSettings, **options: Any) -> AsyncIterator[MqttNotifier]:
    notifier = MqttNotifier(settings, **options)
    try:
        yield notifier
    finally:
        await notifier.close()


@asynccontextmanager
async def subscribed(
    port: int, topic: str = TOPIC, **options: Any
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
            notifying(BrokerSettings("127.0.0.1", plain.port)) as notifier,
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
        connect = _Publisher.open

        async def count(*args: Any) -> _Publisher:
            nonlocal opened
            opened += 1
            return await connect(*args)

        monkeypatch.setattr(_Publisher, "open", count)
        async with (
            notifying(BrokerSettings("127.0.0.1", plain.port)) as notifier,
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
        outbox = Outbox(
            MqttNotifier(BrokerSettings("127.0.0.1", plain.port)), lambda: 0.0, settings
        )
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
        async with notifying(BrokerSettings("127.0.0.1", plain.port)) as notifier:
            await notifier.deliver(notification())
            publisher = notifier._publisher
            assert publisher is not None
            plain.stop()
            await asyncio.wait([publisher._listener], timeout=HANG)
            assert publisher.lost
            await started(plain)
            async with subscribed(plain.port) as thing:
                await notifier.deliver(notification("t2", "after"))
                message = await receive(thing)
                assert b"after" in bytes(message.payload)

    async def test_no_broker(self, plain: Broker) -> None:
        plain.stop()
        async with notifying(BrokerSettings("127.0.0.1", plain.port)) as notifier:
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
                    tls_context=thing_context(ca_file),
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
                subscribed(
                    running.port, tls_context=thing_context(tmp_path / "ca.pem", cert, key)
                ) as thing,
            ):
                await notifier.deliver(notification())
                assert TOKEN.encode() in bytes((await receive(thing)).payload)
            stranger = parse_mqtt_url(url, {}, ca=tmp_path / "ca.pem")
            async with notifying(stranger, timeout=1.0) as notifier:
                with pytest.raises(NotifyFailed):
                    await notifier.deliver(notification())


def thing_context(ca: Path, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


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

    async def script(peer: BrokerPeer) -> None:
        await peer.to_end()

    async with scripted_broker(script) as broker:
        async with notifying(BrokerSettings("127.0.0.1", broker.port), timeout=0.2) as notifier:
            with pytest.raises(NotifierDown, match=r"no answer to CONNECT within 0\.2 s"):
                await notifier.deliver(notification())


async def test_stopping_while_it_connects() -> None:
    arrived = asyncio.Event()

    async def script(peer: BrokerPeer) -> None:
        arrived.set()
        await peer.to_end()

    async with scripted_broker(script) as broker:
        notifier = MqttNotifier(BrokerSettings("127.0.0.1", broker.port))
        delivery = asyncio.get_running_loop().create_task(notifier.deliver(notification()))
        await arrived.wait()
        delivery.cancel()
        await asyncio.wait([delivery])
        assert delivery.cancelled()
        await notifier.close()


async def test_a_broker_that_dies_before_it_acknowledges() -> None:
    async def script(peer: BrokerPeer) -> None:
        await peer.connect()
        await peer.expect(PUBLISH_1)
        peer.abort()

    async with scripted_broker(script) as broker:
        settings = BrokerSettings("127.0.0.1", broker.port)
        async with notifying(settings, timeout=1e6) as notifier, asyncio.timeout(HANG):
            with pytest.raises(NotifyFailed, match=r"^the connection was (closed|lost)"):
                await notifier.deliver(notification())


async def test_a_broker_that_takes_a_message_and_says_nothing() -> None:
    async def script(peer: BrokerPeer) -> None:
        client = await peer.connect()
        assert re.fullmatch("[0-9a-zA-Z]{1,23}", client.client_id)
        assert client.clean_session
        assert TOKEN.encode() in await peer.expect(PUBLISH_1)
        await peer.to_end()

    async with scripted_broker(script) as broker:
        settings = BrokerSettings("127.0.0.1", broker.port)
        async with notifying(settings, timeout=0.2) as notifier:
            with pytest.raises(NotifyFailed, match=r"no answer to PUBLISH within 0\.2 s"):
                await notifier.deliver(notification())
            assert notifier._publisher is None


async def test_what_is_under_way_fails_with_the_connection() -> None:
    """The first one that fails closes it; the others need not wait for their own time to be up."""
    both = asyncio.Event()

    async def script(peer: BrokerPeer) -> None:
        await peer.connect()
        await peer.expect(PUBLISH_1)
        await peer.expect(PUBLISH_1)
        both.set()
        await peer.to_end()

    async with scripted_broker(script) as broker:
        settings = BrokerSettings("127.0.0.1", broker.port)
        async with notifying(settings, timeout=1e6) as notifier, asyncio.timeout(HANG):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(failure_of(notifier)) for _ in range(2)]
                await both.wait()
                await notifier.close()
    assert [each.result() for each in tasks] == ["the connection was closed"] * 2


async def failure_of(notifier: MqttNotifier) -> str:
    with pytest.raises(NotifyFailed) as failed:
        await notifier.deliver(notification())
    return str(failed.value)


@pytest.mark.parametrize("topic", [b"\xff\xfe", b"t"], ids=["not UTF-8", "good"])
async def test_a_broker_that_publishes_to_the_publisher(topic: bytes) -> None:
    """It subscribes to nothing, so this ends the connection: once, and with no endless loop."""
    gone = asyncio.Event()

    async def script(peer: BrokerPeer) -> None:
        await peer.connect()
        if peer.number == 0:
            peer.send(message(topic, b"!") + message(topic, b"!"))
            await peer.to_end()
            gone.set()
            return
        body = await peer.expect(PUBLISH_1)
        size = int.from_bytes(body[:2], "big")
        peer.send(packet(0x40, body[2 + size : 4 + size]))
        await peer.to_end()

    async with scripted_broker(script) as broker:
        async with notifying(BrokerSettings("127.0.0.1", broker.port)) as notifier:
            publisher = await notifier._connected()
            await asyncio.wait([publisher._listener], timeout=HANG)
            assert publisher.lost
            await notifier.deliver(notification())
            await gone.wait()
            assert broker.connections == 2
