"""From OpenTunnel to the agent over a real broker, on a topic of their own."""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial
from pathlib import Path

import pytest

import tailrace
from support.processes.mosquitto import broker, needs_mosquitto
from support.waiting import HANG, until
from tailrace.agent.sources.base import Delivery
from tailrace.agent.sources.mqtt import MqttSource, MqttSourceSettings
from tailrace.mqtt.settings import BrokerSettings
from tailrace.mqtt.topics import AWS_TEMPLATE, parse_topic_template
from tailrace.service import tunneling_service
from tailrace.service.notify.reminders import Reminders


@needs_mosquitto
@pytest.mark.parametrize("template", [AWS_TEMPLATE, "plant.north/{thing}/notify"])
async def test_a_notification_reaches_the_thing_alone(tmp_path: Path, template: str) -> None:
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    with broker(tmp_path) as running:
        settings = MqttSourceSettings(
            BrokerSettings("127.0.0.1", running.port),
            "pump",
            topics=parse_topic_template(template),
        )
        source = MqttSource(settings)
        listening = asyncio.get_running_loop().create_task(source.run(arrived.put))
        try:
            await until(lambda: source.status().startswith("connected"), "a subscription")
            url = f"mqtt://127.0.0.1:{running.port}"
            async with tailrace.Service(mqtt_url=url, notify_topic=template) as service:
                async with service.client() as client, asyncio.timeout(HANG):
                    await client.open(thing="other", services=["SSH"])
                    opened = await client.open(thing="pump", services=["SSH"])
                    delivery = await arrived.get()
        finally:
            listening.cancel()
            await asyncio.wait([listening])
    assert delivery.thing_name == "pump"
    assert not delivery.retained
    token = json.loads(delivery.payload)["clientAccessToken"]
    assert opened.destination_token is not None
    assert token == opened.destination_token.reveal()
    assert arrived.empty()


@needs_mosquitto
async def test_a_thing_that_subscribes_too_late_is_notified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tailrace.service")
    # As after a broker was killed: the service is back at it sooner than the thing.
    quick = partial(Reminders, delays=[0.1] * 600)
    monkeypatch.setattr(tunneling_service, "Reminders", quick)
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    with broker(tmp_path) as running:
        url = f"mqtt://127.0.0.1:{running.port}"
        async with tailrace.Service(mqtt_url=url) as service, service.client() as client:
            opened = await client.open(thing="pump", services=["SSH"])
            # The broker has acknowledged it, and nobody was there.
            await until(lambda: "thing pump notified" in caplog.text, "the first notification")
            settings = MqttSourceSettings(BrokerSettings("127.0.0.1", running.port), "pump")
            listening = asyncio.get_running_loop().create_task(
                MqttSource(settings).run(arrived.put)
            )
            try:
                async with asyncio.timeout(HANG):
                    delivery = await arrived.get()
            finally:
                listening.cancel()
                await asyncio.wait([listening])
    assert opened.destination_token is not None
    assert json.loads(delivery.payload)["clientAccessToken"] == opened.destination_token.reveal()
