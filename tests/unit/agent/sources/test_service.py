"""Waiting at a service: what comes, what is acknowledged, and what comes again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from support.network.certificates import Certificates
from support.network.https_server import Close, ScriptedHTTPS, answer, scripted_https
from support.plugins.clock import ClockLoop
from support.service import config, running
from support.waiting import until
from tailrace.agent.sources import service as module
from tailrace.agent.sources.base import Delivery
from tailrace.agent.sources.service import ServiceSource, service_source
from tailrace.aws import Client, ControlAPI, Credentials, JoinedService
from tailrace.aws import joined as joined_module
from tailrace.aws.joined import write_joined
from tailrace.common.enrolment import Role
from tailrace.common.notification_stream import event
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError, TailraceError
from tailrace.service.config import Address
from tailrace.service.identity.key_store import KeyFile, credentials_file, new_key
from tailrace.service.identity.policy import device_policy
from tailrace.service.notify.mailbox import Mailbox
from tailrace.service.tunneling_service import TunnelingService


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_SECONDS", 0.0)


@asynccontextmanager
async def listening(
    source: ServiceSource, receive: Callable[[Delivery], Any] | None = None
) -> AsyncIterator[list[Delivery]]:
    """Run a source; yields what it has delivered."""
    got: list[Delivery] = []

    async def take(delivery: Delivery) -> None:
        if receive is not None:
            receive(delivery)
        got.append(delivery)

    task = asyncio.get_running_loop().create_task(source.run(take))
    try:
        yield got
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Site:
    """A service with a device's key, and an operator."""

    def __init__(self, service: TunnelingService, state_dir: Path) -> None:
        self.service = service
        endpoints = service.endpoints
        key = new_key("pump-7", time.time(), device_policy("pump-7"))
        KeyFile(credentials_file(state_dir)).add(key, time.time())
        self.client = Client(
            region=endpoints.region,
            endpoint=endpoints.api_endpoint,
            credentials=Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key)),
            ca=endpoints.ca_file,
        )
        self.source = ServiceSource(
            endpoints.api_endpoint,
            endpoints.region,
            Credentials(key.access_key_id, key.secret_access_key),
            "pump-7",
            Path(endpoints.ca_file),
            {},
        )

    @property
    def mailbox(self) -> Mailbox:
        return self.service._running.control.mailbox

    async def open(self) -> str:
        return (await self.client.open(thing="pump-7", services=["SSH"])).tunnel_id


@asynccontextmanager
async def site(tmp_path: Path, **changes: Any) -> AsyncIterator[Site]:
    async with running(config(tmp_path / "state", **changes)) as service:
        made = Site(service, tmp_path / "state")
        async with made.client:
            yield made


def tunnels(got: list[Delivery]) -> list[str]:
    return [json.loads(each.payload)["tunnelId"] for each in got]


async def test_what_is_stored_is_acknowledged(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        first = await at.open()
        async with listening(at.source) as got:
            await until(lambda: len(got) == 1, "the one from before")
            second = await at.open()
            await until(lambda: len(got) == 2, "the next one")
            await until(lambda: not len(at.mailbox), "acknowledgements")
            assert at.source.status().startswith(f"waiting at {at.source.name} for ")
        assert tunnels(got) == [first, second]
        assert got[0].thing_name == "pump-7"
        assert at.mailbox.delivered == 2
        await until(lambda: not at.mailbox.things, "the end of the stream")


async def test_what_was_not_stored_comes_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [TailraceError("disk full"), TailraceError("disk full")]

    def fail(_: Delivery) -> None:
        if failures:
            raise failures.pop()

    async with site(tmp_path) as at:
        tunnel = await at.open()
        async with listening(at.source, fail) as got:
            await until(lambda: not len(at.mailbox), "the acknowledgement")
        assert tunnels(got) == [tunnel]
    assert "disk full; trying again" in caplog.text


async def test_a_service_that_comes_and_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(tmp_path) as at:
        port = int(at.source.name.rpartition(":")[2])
        async with listening(at.source) as got:
            await until(lambda: at.mailbox.things == 1, "the stream")
            await at.service.stop()
            await until(lambda: "not connected: " in at.source.status(), "the end of the stream")
            await until(lambda: "cannot connect" in at.source.status(), "another attempt")
            await until(lambda: at.source._backoff._failures > 3, "some attempts")
            told = [each for each in caplog.messages if "cannot connect" in each]
            assert len(told) == 1
            address = Address("127.0.0.1", port)
            async with running(config(tmp_path / "state", api_listen=address)) as again:
                mailbox = again._running.control.mailbox
                await until(lambda: mailbox.things == 1, "the next stream")
                await at.open()
                await until(lambda: len(got) == 1, "a notification")
        await at.service.start()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[ScriptedHTTPS, ServiceSource]]:
    certificates = Certificates(tmp_path)
    async with scripted_https(certificates) as scripted:
        source = ServiceSource(
            scripted.url,
            "us-east-1",
            Credentials("AK", Secret("SK")),
            "pump:7",
            certificates.ca_file,
            {},
        )
        yield scripted, source


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


async def test_odd_streams(
    server: tuple[ScriptedHTTPS, ServiceSource], caplog: pytest.LogCaptureFixture
) -> None:
    scripted, source = server
    refused = answer({"__type": "UnrecognizedClientException", "message": "who?"}, 403)
    scripted.answers = [
        refused,
        Close(HEAD + b"id: \xff\n"),
        Close(HEAD + b"x" * 70_000),
        Close(HEAD + b"event: other\nid: a\ndata: x\n\n"),
        Close(HEAD + event("t-1", "x" * 8193) + event("t-2", "{}")),
    ]
    async with listening(source) as got:
        await until(lambda: any(b"t-2" in each for each in scripted.bodies), "acknowledgement")
    assert [each.payload for each in got] == [b"{}"]
    assert scripted.heads[0].startswith(b"GET /notifications?thing=pump%3A7 HTTP/1.1\r\n")
    acknowledged = [json.loads(each) for each in scripted.bodies if each]
    ids = [each for document in acknowledged for each in document["tokenIds"]]
    assert ids[:2] == ["t-1", "t-2"]
    for text in ("UnrecognizedClientException: who?", "a line of the stream is too long"):
        assert f"{text}; trying again" in caplog.text
    assert "a notification is longer than 8192 bytes: ignored" in caplog.text


async def test_acknowledgements_that_fail_do_no_harm(
    server: tuple[ScriptedHTTPS, ServiceSource], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    scripted, source = server
    denied = answer({"__type": "AccessDeniedException", "message": "no"}, 403)
    body = HEAD + event("t-1", "{}")
    async with listening(source) as got:
        scripted.answers = [Close(body), denied, denied, denied, Close(body)]
        await until(lambda: len(got) >= 2, "the same one again")
        await until(lambda: "are not acknowledged" in caplog.text, "the failure")


class _Flood:
    """Stands for a service that sends without end, and acknowledges nothing."""

    def __init__(self, event_id: Callable[[int], str]) -> None:
        self._event_id = event_id

    @asynccontextmanager
    async def stream(self, *_: object) -> AsyncIterator[_Flood]:
        yield self

    async def pieces(self) -> AsyncIterator[bytes]:
        number = 0
        while True:
            events = range(number, number + 50)
            yield b"".join(event(self._event_id(each), "{}") for each in events)
            number += 50

    async def call(self, operation: str, parameters: object) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("event_id", "most"), [(lambda number: f"t-{number}", 1000), (lambda number: "t" * 129, 0)]
)
def test_a_service_without_end(event_id: Callable[[int], str], most: int) -> None:
    """It takes neither the loop nor the memory; the test would not end otherwise."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        key = Credentials("AK", Secret("SK"))
        url = "https://service.example"
        source = ServiceSource(url, "us-east-1", key, "pump-7", None, {}, now=loop.time)
        source._api = cast(ControlAPI, _Flood(event_id))
        async with listening(source) as got:
            await asyncio.sleep(60)
            assert 5900 <= len(got) <= 6100
            assert len(source._stored) == most

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(play())


# -- which service, thing and key -------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """That of a machine that has joined a service as a device."""
    monkeypatch.setattr(joined_module, "_SYSTEM", tmp_path / "none")
    service = JoinedService(
        Role.DEVICE,
        "pump-7",
        "https://mine.example:7443",
        "mine.example:7444",
        "us-east-1",
        Path(),
        Credentials("AKJOINED", Secret("SK")),
    )
    pem = Certificates(tmp_path).ca_file.read_bytes()
    write_joined(tmp_path / "device", service, pem)
    write_joined(tmp_path / "operator", replace(service, role=Role.OPERATOR, name="alice"), pem)
    empty = {"XDG_CONFIG_HOME": str(tmp_path / "none"), "AWS_CONFIG_FILE": str(tmp_path / "none")}
    empty["AWS_SHARED_CREDENTIALS_FILE"] = str(tmp_path / "none")
    return empty


async def test_the_joined_service_is_the_default(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment["TAILRACE_SERVICE_DIR"] = str(tmp_path / "device")
    for url, thing in (
        (None, None),
        ("https://mine.example:7443/", None),
        (None, "pump-8"),
    ):
        source = service_source(url, thing, environment)
        assert source.name == "https://mine.example:7443"
        assert source._thing_name == (thing or "pump-7")
        assert source.status() == "connecting"
    environment["TAILRACE_SERVICE_DIR"] = str(tmp_path / "operator")
    assert service_source(None, "pump-8", environment)._thing_name == "pump-8"
    with pytest.raises(ConfigurationError, match="which thing waits at https://mine"):
        service_source(None, None, environment)


async def test_another_service_has_the_key_of_the_environment(
    environment: dict[str, str], tmp_path: Path
) -> None:
    url = "https://other.example"
    with pytest.raises(ConfigurationError, match="no service to wait at"):
        service_source(None, "pump-7", environment)
    with pytest.raises(ConfigurationError, match=f"no key for {url}: join it"):
        service_source(url, "pump-7", environment)
    environment |= {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}
    with pytest.raises(ConfigurationError, match=f"no region for {url}: set AWS_REGION"):
        service_source(url, "pump-7", environment)
    environment["AWS_REGION"] = "us-east-1"
    assert service_source(url, "pump-7", environment).name == url
    # The key of the joined service is for that one.
    environment["TAILRACE_SERVICE_DIR"] = str(tmp_path / "device")
    source = service_source(url, None, environment)
    assert source._api._credentials == Credentials("AK", Secret("SK"))
