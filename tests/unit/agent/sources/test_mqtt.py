"""Notifications over MQTT: from a broker that comes and goes, and from one that plays tricks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from support.network.scripted_broker import BrokerPeer, message, packet, scripted_broker
from support.plugins.clock import ClockLoop
from support.processes.mosquitto import broker, needs_mosquitto, started
from support.waiting import HANG, until
from tailrace.agent.sources import mqtt as module
from tailrace.agent.sources.base import Delivery, NotificationSource
from tailrace.agent.sources.mqtt import MqttSource, MqttSourceSettings
from tailrace.errors import (
    CertificateFault,
    CertificateRejected,
    ConfigurationError,
    NameResolutionFailed,
    TailraceError,
)
from tailrace.mqtt.codec import Oversized, Publish
from tailrace.mqtt.errors import BrokerError, BrokerFault
from tailrace.mqtt.session import (
    Accepted,
    Dropped,
    Event,
    Handled,
    Received,
    SessionSettings,
    Subscribed,
)
from tailrace.mqtt.settings import BrokerSettings
from tailrace.mqtt.topics import parse_topic_template

TOPIC = "$aws/things/pump/tunnels/notify"
PUMP = MqttSourceSettings(BrokerSettings("broker.example", 1883), "pump")
UP = (Accepted(False), Subscribed(1))

Step = Event | float | Exception
"""An event, seconds that pass, or how it ends."""


class Staged:
    """A connection that does what a test says; runs out of steps like one that stays."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self.closed = 0

    async def run(self, handle: Callable[[Event], Awaitable[None]]) -> None:
        for step in self._steps:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, Exception):
                raise step
            else:
                await handle(step)
        await asyncio.sleep(1e9)

    async def close(self) -> None:
        self.closed += 1


class Stage:
    """A source whose connections are staged, on a clock that passes at once."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *acts: Sequence[Step],
        settings: MqttSourceSettings = PUMP,
        now: float = 1_795_700_000.0,
    ) -> None:
        self._acts = acts
        self.tries: list[float] = []
        """When a connection was tried."""
        self.sessions: list[SessionSettings] = []
        self.connections: list[Staged] = []
        self.delivered: list[Delivery] = []
        self.statuses: list[str] = []
        """At the beginning of each try."""
        self.source = MqttSource(settings, rng=random.Random(7), wall_clock=lambda: now)
        monkeypatch.setattr(module, "open_connection", self._open)

    async def receive(self, delivery: Delivery) -> None:
        self.delivered.append(delivery)

    async def _open(self, broker: BrokerSettings, session: SessionSettings, _: object) -> Staged:
        loop = asyncio.get_running_loop()
        self.statuses.append(self.source.status())
        self.sessions.append(session)
        self.tries.append(loop.time())
        steps = self._acts[min(len(self.tries), len(self._acts)) - 1]
        if steps and isinstance(steps[0], Exception):
            raise steps[0]
        self.connections.append(Staged(steps))
        return self.connections[-1]

    def play(self, seconds: float) -> str:
        """Run the source for so long; return its status in the end."""

        async def live() -> str:
            task = asyncio.get_running_loop().create_task(self.source.run(self.receive))
            await asyncio.wait([task], timeout=seconds)
            status = self.source.status()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()
            return status

        with asyncio.Runner(loop_factory=ClockLoop) as runner:
            return runner.run(live())

    def delays(self) -> list[float]:
        return [after - before for before, after in zip(self.tries, self.tries[1:], strict=False)]


def lost(fault: BrokerFault = BrokerFault.LOST, text: str = "closed") -> BrokerError:
    return BrokerError(fault, text)


def unreachable(cause: Exception) -> BrokerError:
    error = lost(BrokerFault.UNREACHABLE, str(cause))
    error.__cause__ = cause
    return error


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def test_it_is_a_source() -> None:
    source: NotificationSource = MqttSource(PUMP)
    assert source.name == "broker mqtt://broker.example:1883"
    assert source.status() == "connecting to broker.example:1883"


class TestPersistence:
    """It never gives up, and neither hammers the broker nor floods the log."""

    def test_a_day_without_a_broker(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        error = unreachable(NameResolutionFailed("cannot resolve broker.example: no answer"))
        stage = Stage(monkeypatch, [error])
        day = 86_400
        status = stage.play(day)
        assert all(1 <= delay <= 61 for delay in stage.delays())
        assert len(stage.tries) > day / 61
        # Full jitter, and growing: a thousand agents do not come back together.
        assert len(set(stage.delays())) > 0.9 * len(stage.delays())
        assert max(stage.delays()[:4]) < 10 < max(stage.delays())
        assert re.fullmatch(
            "not connected to broker.example:1883: cannot resolve broker.example: no answer;"
            r" again in \d+ s",
            status,
        )
        lines = said(caplog)
        assert len(lines) <= day / 600 + 1
        assert set(lines) == {
            "mqtt://broker.example:1883: cannot resolve broker.example: no answer; trying again"
        }

    def test_delays_start_afresh_only_after_a_minute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two agents with one client id throw each other out for ever."""
        flaps = Stage(monkeypatch, [*UP, 59.0, lost()])
        flaps.play(4 * 3600)
        lasts = Stage(monkeypatch, [*UP, 60.0, lost()])
        lasts.play(4 * 3600)
        assert max(flaps.delays()) > 59 + 10
        assert max(lasts.delays()) <= 60 + 2
        assert all(connection.closed == 1 for connection in flaps.connections)

    def test_one_line_for_each_change(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        down = unreachable(NameResolutionFailed("no name"))
        stage = Stage(monkeypatch, [down], [down], [*UP, 3600.0, lost()], [down], [*UP])
        status = stage.play(2 * 3600)
        up = "connected to mqtt://broker.example:1883, waiting for notifications of pump"
        assert said(caplog, logging.INFO) == [
            "mqtt://broker.example:1883: no name; trying again",
            up,
            "mqtt://broker.example:1883: closed; trying again",
            "mqtt://broker.example:1883: no name; trying again",
            up,
        ]
        assert re.fullmatch(r"connected to broker\.example:1883 for 59 min \d+ s", status)
        assert stage.statuses[2].startswith(
            "not connected to broker.example:1883: no name; again now"
        )

    def test_what_is_logged_last_is_true(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        stage = Stage(monkeypatch, [*UP, 5.0, lost()], [*UP, 5.0, lost()], [*UP])
        stage.play(50)
        up, down = "connected to mqtt://broker.example:1883", "closed; trying again"
        assert [up in line for line in said(caplog, logging.INFO)] == [True, False]
        caplog.clear()
        stage = Stage(monkeypatch, [*UP, 5.0, lost()], [*UP, 5.0, lost()], [*UP])
        stage.play(500)
        lines = said(caplog, logging.INFO)
        assert len(lines) == 3
        assert up in lines[0]
        assert down in lines[1]
        assert up in lines[2]

    def test_the_clock_is_wrong_at_boot(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rule 20."""
        error = CertificateRejected("not yet valid", fault=CertificateFault.OUT_OF_DATE)
        stage = Stage(monkeypatch, [unreachable(error)], [*UP], now=0.0)
        status = stage.play(100)
        (line,) = said(caplog)
        assert "the clock of this machine is wrong, it says 1970-01-01: not yet valid" in line
        assert status.startswith("connected")

    def test_a_certificate_that_is_gone(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        stage = Stage(monkeypatch, [ConfigurationError("certificate x.pem: gone")], [*UP])
        assert stage.play(100).startswith("connected")
        (line,) = said(caplog)
        assert "x.pem: gone; trying again" in line

    @pytest.mark.parametrize("fault", [BrokerFault.LOST, BrokerFault.SUBSCRIPTION_REFUSED])
    def test_thrown_out_three_times(
        self, fault: BrokerFault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rule 10."""
        stage = Stage(monkeypatch, [Accepted(False), 9.0, lost(fault)])
        stage.play(120)
        verdicts = [
            line for line in said(caplog) if "another client uses the client id pump" in line
        ]
        assert len(verdicts) == 1
        assert f"or the broker forbids the subscription to {TOPIC}" in verdicts[0]
        assert said(caplog).index(verdicts[0]) == 1

    def test_not_thrown_out_if_it_takes_longer(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        acts = [[*UP, 9.0, lost()], [*UP, 9.0, lost()], [*UP, 11.0, lost()]] * 10
        Stage(monkeypatch, *acts).play(600)
        assert "another client" not in caplog.text

    def test_what_breaks_the_rules_does_not_come_back_for_ever(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        bad = [*UP, lost(BrokerFault.VIOLATION, "the broker sent rubbish")]
        stage = Stage(monkeypatch, bad, bad, [*UP, 60.0, lost()], [*UP])
        stage.play(600)
        assert [each.clean_session for each in stage.sessions] == [False, False, True, False]
        assert "it is to forget what it has kept for this client" in caplog.text

    def test_what_is_no_broker_is_not_asked_to_forget(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stage = Stage(monkeypatch, [1.0, lost(BrokerFault.VIOLATION, "rubbish")])
        stage.play(600)
        assert not any(each.clean_session for each in stage.sessions)


class TestEvents:
    def test_how_it_presents_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stage = Stage(monkeypatch, [*UP])
        stage.play(1)
        assert stage.sessions == [
            SessionSettings("pump", TOPIC, keep_alive=45, clean_session=False)
        ]
        settings = MqttSourceSettings(
            PUMP.broker, "pump", "other", parse_topic_template("d/{thing}"), keep_alive=60
        )
        stage = Stage(monkeypatch, [*UP], settings=settings)
        stage.play(1)
        (session,) = stage.sessions
        assert (session.client_id, session.topic, session.keep_alive) == ("other", "d/pump", 60)

    def test_what_is_delivered(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Vectors 20, 22 and 23: the agent judges, but has to be told whose topic it is."""
        stage = Stage(
            monkeypatch,
            [
                *UP,
                Handled(),
                Received(Publish(TOPIC, b"1", 1, 1)),
                Received(Publish(TOPIC.replace("pump", "other"), b"2", retain=True)),
                Received(Publish("status/\n", b"3")),
                Received(Publish("status/\n", b"4")),
                Dropped(Oversized(TOPIC, 9000)),
                Dropped(Oversized(TOPIC, 9000)),
            ],
        )
        stage.play(1)
        assert stage.delivered == [
            Delivery(b"1", "pump", False),
            Delivery(b"2", "other", True),
        ]
        assert said(caplog) == [
            r"a message on status/\n is ignored: it is not the topic of a thing",
            "a message of 9000 bytes is ignored: a notification has at most 8192",
        ]

    def test_a_broker_that_keeps_nothing(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        Stage(monkeypatch, [Accepted(False), Subscribed(0)]).play(1)
        (line,) = said(caplog)
        assert "QoS 0 only" in line

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (OSError(28, "x"), "No space left on device"),
            (TailraceError("the state directory is gone"), "the state directory is gone"),
            (ValueError("with a secret"), "ValueError"),
        ],
    )
    def test_what_cannot_be_stored(
        self,
        error: Exception,
        text: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The connection ends, so that the broker sends it again."""
        stage = Stage(monkeypatch, [*UP, Received(Publish(TOPIC, b"x", 1, 1)), 1e9], [*UP])

        async def receive(_: Delivery) -> None:
            raise error

        monkeypatch.setattr(stage, "receive", receive)
        assert stage.play(100).startswith("connected")
        assert len(stage.tries) == 2
        lines = [line for line in said(caplog) if "could not be stored" in line]
        assert len(lines) == 1
        assert f"could not be stored ({text})" in lines[0]


class Inbox:
    """Where deliveries go."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.refusals = 0

    async def receive(self, delivery: Delivery) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError(28, "full")
        self.payloads.append(delivery.payload)

    async def holds(self, *payloads: bytes) -> None:
        await until(lambda: len(self.payloads) >= len(payloads), f"{len(payloads)} deliveries")
        assert self.payloads == list(payloads)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MIN_DELAY", 0.01)
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(module, "_MAX_DELAY", 0.1)


@asynccontextmanager
async def listening(port: int, inbox: Inbox, **options: Any) -> AsyncIterator[MqttSource]:
    """A source that runs, and is connected."""
    settings = MqttSourceSettings(BrokerSettings("127.0.0.1", port), "pump", **options)
    source = MqttSource(settings)
    task = asyncio.get_running_loop().create_task(source.run(inbox.receive))
    try:
        await online(source)
        yield source
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def online(source: MqttSource) -> None:
    await until(lambda: source.status().startswith("connected"), "a connection")


async def publish(port: int, payload: bytes, **options: Any) -> None:
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.publish(TOPIC, payload, qos=1, **options)


@needs_mosquitto
@pytest.mark.usefixtures("quick")
class TestMosquitto:
    async def test_while_it_is_there_and_while_it_is_away(
        self, tmp_path: Path, loop_kind: str
    ) -> None:
        """The broker keeps what it could not deliver."""
        inbox = Inbox()
        with broker(tmp_path) as running:
            async with listening(running.port, inbox):
                await publish(running.port, b"1")
                await inbox.holds(b"1")
            await publish(running.port, b"2")
            await publish(running.port, b"3")
            async with listening(running.port, inbox):
                await inbox.holds(b"1", b"2", b"3")

    async def test_a_broker_that_restarts_and_forgets(self, tmp_path: Path) -> None:
        inbox = Inbox()
        with broker(tmp_path) as running:
            async with listening(running.port, inbox) as source:
                for payload in (b"1", b"2"):
                    running.stop()
                    await until(lambda: not source.status().startswith("connected"), "the loss")
                    await started(running)
                    await online(source)
                    await publish(running.port, payload)
                await inbox.holds(b"1", b"2")

    async def test_what_could_not_be_stored_comes_again(self, tmp_path: Path) -> None:
        inbox = Inbox()
        with broker(tmp_path) as running:
            async with listening(running.port, inbox):
                inbox.refusals = 2
                await publish(running.port, b"1")
                await inbox.holds(b"1")

    async def test_a_retained_one(self, tmp_path: Path) -> None:
        """Vector 23: it comes with every subscription, which the agent is told."""
        seen: list[Delivery] = []

        async def receive(delivery: Delivery) -> None:
            seen.append(delivery)

        inbox = Inbox()
        inbox.receive = receive  # type: ignore[method-assign]
        with broker(tmp_path) as running:
            await publish(running.port, b"1", retain=True)
            for number in (1, 2):
                async with listening(running.port, inbox):
                    await until(lambda wanted=number: len(seen) == wanted, "the retained one")
        assert seen == [Delivery(b"1", "pump", True)] * 2

    async def test_an_intruder_with_the_same_client_id(self, tmp_path: Path) -> None:
        """The second one wins, and the first comes back."""
        inbox = Inbox()
        with broker(tmp_path) as running:
            async with listening(running.port, inbox) as source:
                with contextlib.suppress(aiomqtt.MqttError):
                    async with aiomqtt.Client("127.0.0.1", running.port, identifier="pump"):
                        await until(lambda: not source.status().startswith("connected"), "the loss")
                        await online(source)
                await publish(running.port, b"1")
                await inbox.holds(b"1")


@pytest.mark.usefixtures("quick")
async def test_a_poisoned_session() -> None:
    """A broker that sends nonsense with each connection of a kept session, until told to forget."""
    clean: list[bool] = []

    async def script(peer: BrokerPeer) -> None:
        client = await peer.connect(session_present=True)
        clean.append(client.clean_session)
        if client.clean_session:
            await peer.subscribe()
            peer.send(message(TOPIC, b"good", qos=1))
            assert await peer.read() == (0x40, b"\0\1")
        else:
            peer.send(message(b"\xff", b"bad", qos=1) + packet(0xD0))
        await peer.to_end()

    inbox = Inbox()
    async with asyncio.timeout(HANG), scripted_broker(script) as running:
        async with listening(running.port, inbox):
            await inbox.holds(b"good")
    assert clean == [False, False, True]


@pytest.mark.usefixtures("quick")
async def test_a_flood_is_taken_one_by_one() -> None:
    """Vector 24: what is not stored yet waits in the broker."""
    busy = 0

    async def script(peer: BrokerPeer) -> None:
        await peer.begin()
        peer.send(b"".join(message(TOPIC, b"%d" % n, qos=1, packet_id=n) for n in range(1, 51)))
        for number in range(1, 51):
            assert await peer.read() == (0x40, number.to_bytes(2, "big"))
        await peer.to_end()

    class Slow(Inbox):
        async def receive(self, delivery: Delivery) -> None:
            nonlocal busy
            busy += 1
            assert busy == 1
            await asyncio.sleep(0)
            busy -= 1
            await super().receive(delivery)

    inbox = Slow()
    async with scripted_broker(script) as running:
        async with listening(running.port, inbox):
            await inbox.holds(*(b"%d" % n for n in range(1, 51)))


def test_the_agent_stays_small() -> None:
    """What MQTT takes: neither a library nor one of the rooms of the service."""
    import subprocess
    import sys

    code = (
        "import sys, tailrace.agent.sources.mqtt\n"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('aiomqtt', 'paho', 'gmqtt', 'uvicorn', 'websockets', 'picows', 'cryptography')"
        " or m.startswith(('tailrace.service', 'tailrace.localproxy', 'tailrace.session'))])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
