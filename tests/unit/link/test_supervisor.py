"""Keeping a link: what ends it, what is tried again, and how soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from support.network.certificates import Certificates
from support.network.frames import BINARY, CLOSE, PING, PONG, Frame, close_frame, frame
from support.network.recorder import Recorder
from support.network.scripted_service import (
    ACCESS_TOKEN,
    Peer,
    Request,
    Script,
    ScriptedService,
    refuse,
    serve,
    until_closed,
)
from support.plugins.clock import ClockLoop
from support.waiting import HANG
from tailrace.common.secret import Secret
from tailrace.errors import (
    AccessRefused,
    CertificateRejected,
    ConfigurationError,
    ConnectFailed,
    HandshakeAltered,
    HandshakeFailed,
    LinkError,
    NameResolutionFailed,
    NotTunnelingService,
    ServiceUnavailable,
    TLSFailed,
    TokenRotated,
)
from tailrace.link import ClosedBy, Link, LinkClosed, LinkHandler, LinkInfo, backoff
from tailrace.link import supervisor as module
from tailrace.link.backoff import MIN_DELAY
from tailrace.link.endpoint import ServiceEndpoint, TLSOptions
from tailrace.link.supervisor import LinkSupervisor, ReconnectPolicy, SupervisorOutcome
from tailrace.wire import Side

QUICK: dict[str, Any] = {"retry_delay": 0.0, "retry_delay_cap": 0.0}
"""The shortest delays there are."""


@pytest.fixture(autouse=True)
def short_delays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less where the time is real."""
    if asyncio.iscoroutinefunction(request.function):
        monkeypatch.setattr(backoff, "MIN_DELAY", 0.005)


class Observer:
    """Notes what the supervisor reports; may act on it."""

    def __init__(self) -> None:
        self.handlers: list[Recorder] = []
        self.links: list[Link] = []
        self.ends: list[LinkClosed] = []
        self.retries: list[tuple[LinkError, float]] = []
        self.events: list[str] = []
        self.on_opened: Callable[[Link], None] = lambda link: None
        self.on_down: Callable[[LinkClosed], None] = lambda closed: None
        self.on_retry: Callable[[], None] = lambda: None

    def new_handler(self) -> Recorder:
        self.events.append("handler")
        self.handlers.append(Recorder())
        return self.handlers[-1]

    def link_opened(self, link: Link) -> None:
        assert self.handlers[-1].frames == []
        self.events.append("opened")
        self.links.append(link)
        self.on_opened(link)

    def link_down(self, closed: LinkClosed) -> None:
        assert self.handlers[-1].closed.result() == closed
        self.events.append("down")
        self.ends.append(closed)
        self.on_down(closed)

    def retrying(self, cause: LinkError, delay: float) -> None:
        self.events.append("retrying")
        self.retries.append((cause, delay))
        self.on_retry()

    @property
    def causes(self) -> list[type[LinkError]]:
        return [type(cause) for cause, _ in self.retries]


def supervisor(
    service: ScriptedService,
    observer: Observer,
    policy: dict[str, Any] | None = None,
    **changes: Any,
) -> LinkSupervisor:
    return LinkSupervisor(
        service.endpoint(**changes),
        ReconnectPolicy(**(QUICK | (policy or {}))),
        observer,
    )


OK = serve(close_frame(1000, "tunnel closed"), Peer.read_to_end)
BROKEN = serve(close_frame(1011, "restarting"), Peer.read_to_end)


def dropped(peer: Peer) -> None:
    """Accept the upgrade, then end the connection without a word."""
    peer.upgrade()


async def test_a_tunnel_that_is_closed(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, OK) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
        assert service.connections == 1
    assert observer.events == ["handler", "opened", "down"]
    assert observer.ends == [LinkClosed(ClosedBy.PEER, 1000, "tunnel closed")]


async def test_each_link_has_its_own_handler_and_gets_its_frames(
    certificates: Certificates,
) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade(frame(BINARY, b"link %d" % peer.number))
        if peer.number == 2:
            peer.send(close_frame(1000))
            peer.read_to_end()

    observer = Observer()
    with ScriptedService(certificates, script) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
    assert [each.frames for each in observer.handlers] == [[b"link 0"], [b"link 1"], [b"link 2"]]
    assert observer.events == [
        *["handler", "opened", "down", "retrying"] * 2,
        "handler",
        "opened",
        "down",
    ]


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4000, None])
async def test_any_other_close_code_brings_it_back(
    certificates: Certificates, code: int | None
) -> None:
    observer = Observer()
    closing = serve(close_frame(code), Peer.read_to_end)
    with ScriptedService(certificates, closing, OK) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
        assert service.connections == 2
    ((cause, _),) = observer.retries
    assert str(cause) == f"the link was closed by the service ({code or 1005})"


async def test_a_reason_that_quotes_a_token_does_not_come_through(
    certificates: Certificates,
) -> None:
    """To subscribers of a program, and as JSON, what a close frame says goes past any log."""
    quoting = serve(close_frame(4000, f"not {ACCESS_TOKEN}\x1b[2J"), Peer.read_to_end)
    observer = Observer()
    with ScriptedService(certificates, quoting, OK) as service:
        await supervisor(service, observer).run()
    assert observer.ends[0] == LinkClosed(ClosedBy.PEER, 4000, "not <redacted> [2J")
    assert "not <redacted>" in str(observer.retries[0][0])
    assert ACCESS_TOKEN not in str(observer.retries[0][0])


@pytest.mark.parametrize("rude", [False, True])
async def test_a_dropped_link_comes_back(certificates: Certificates, rude: bool) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.read_frame()  # the first ping
        if rude:
            peer.reset()

    observer = Observer()
    with ScriptedService(certificates, script, OK) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
    ((cause, _),) = observer.retries
    assert str(cause).startswith("the link was closed by the network (1006): ")


async def test_a_link_we_had_to_close_comes_back(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, serve(frame(0x1, b"text")), OK) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
    ((cause, _),) = observer.retries
    assert str(cause).startswith("the link was closed by the local side (1003): ")


async def test_a_rotated_token_is_not_tried_again(certificates: Certificates) -> None:
    rotated = serve(close_frame(1008, "The access token was rotated"), Peer.read_to_end)
    with ScriptedService(certificates, rotated) as service:
        assert await supervisor(service, Observer()).run() is SupervisorOutcome.ROTATED
        assert service.connections == 1


ROTATED = close_frame(1008, "The access token was rotated")


def tokens_of(served: list[Request]) -> list[str]:
    return [request["access-token"] for request in served]


async def test_a_link_that_is_cut_for_a_rotation_comes_back_with_the_new_token(
    certificates: Certificates,
) -> None:
    served: list[Request] = []

    def rotated(peer: Peer) -> None:
        served.append(peer.upgrade(ROTATED))
        peer.read_to_end()

    def closed(peer: Peer) -> None:
        served.append(peer.upgrade(close_frame(1000, "")))
        peer.read_to_end()

    observer = Observer()
    with ScriptedService(certificates, rotated, rotated, closed) as service:
        kept = supervisor(service, observer, {"renewal_timeout": HANG})
        # The first token comes while the link is up, the second one when it was cut.
        observer.on_opened = lambda _: (
            kept.renew(Secret("second")) if len(observer.links) == 1 else None
        )
        observer.on_retry = lambda: kept.renew(Secret("third"))
        assert await kept.run() is SupervisorOutcome.CLOSED
    assert tokens_of(served) == [ACCESS_TOKEN, "second", "third"]
    assert observer.causes == [TokenRotated]


async def test_a_new_token_is_not_waited_for_forever(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, serve(ROTATED, Peer.read_to_end)) as service:
        kept = supervisor(service, observer, {"renewal_timeout": 0.01})
        assert await kept.run() is SupervisorOutcome.ROTATED
        assert service.connections == 1
    assert observer.causes == [TokenRotated]


async def test_the_wait_for_a_new_token_can_be_stopped(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, serve(ROTATED, Peer.read_to_end)) as service:
        kept = supervisor(service, observer, {"renewal_timeout": HANG})
        observer.on_retry = kept.stop
        assert await kept.run() is SupervisorOutcome.STOPPED


async def test_a_refusal_of_the_token_before_is_not_final(certificates: Certificates) -> None:
    observer = Observer()

    def refused(peer: Peer) -> None:
        peer.read_request()
        asyncio.run_coroutine_threadsafe(renew(), loop).result(HANG)
        peer.sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async def renew() -> None:
        kept.renew(Secret("second"))

    loop = asyncio.get_running_loop()
    with ScriptedService(certificates, refused, OK) as service:
        kept = supervisor(service, observer)
        assert await kept.run() is SupervisorOutcome.CLOSED
    assert observer.causes == [LinkError]


async def test_a_token_that_cannot_be_sent_is_refused(certificates: Certificates) -> None:
    with ScriptedService(certificates, OK) as service:
        kept = supervisor(service, Observer())
        with pytest.raises(ConfigurationError, match="control character"):
            kept.renew(Secret("a\nb"))
        assert await kept.run() is SupervisorOutcome.CLOSED


async def test_a_replaced_link_comes_back(certificates: Certificates) -> None:
    replaced = serve(close_frame(1008, "replaced by a newer connection"), Peer.read_to_end)
    with ScriptedService(certificates, replaced, OK) as service:
        assert await supervisor(service, Observer()).run() is SupervisorOutcome.CLOSED
        assert service.connections == 2


async def test_a_refusal_is_final(certificates: Certificates) -> None:
    observer = Observer()
    refusal = refuse("403 Forbidden", b"Invalid access-token")
    with ScriptedService(certificates, refusal) as service:
        with pytest.raises(AccessRefused, match="Invalid access-token"):
            await supervisor(service, observer).run()
        assert service.connections == 1
    assert observer.events == ["handler"]


async def test_a_refusal_after_a_drop_is_final(certificates: Certificates) -> None:
    # The one-time token, used without a client token.
    observer = Observer()
    refusal = refuse("400 Bad Request", b"previously used")
    with ScriptedService(certificates, dropped, refusal) as service:
        with pytest.raises(AccessRefused, match="previously used"):
            await supervisor(service, observer).run()
        assert service.connections == 2


@pytest.mark.parametrize("between", [[], [refuse("503 Service Unavailable")]])
async def test_a_refusal_after_a_close_frame_is_the_end_of_the_tunnel(
    certificates: Certificates, between: list[Script]
) -> None:
    observer = Observer()
    scripts = [BROKEN, *between, refuse("403 Forbidden", b"Tunnel is closed")]
    with ScriptedService(certificates, *scripts) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.ENDED
        assert service.connections == len(scripts)


async def test_a_close_frame_of_an_earlier_link_excuses_nothing(
    certificates: Certificates,
) -> None:
    observer = Observer()
    with (
        ScriptedService(
            certificates, BROKEN, dropped, refuse("403 Forbidden", b"rotated")
        ) as service,
        pytest.raises(AccessRefused, match="rotated"),
    ):
        await supervisor(service, observer).run()


@pytest.mark.parametrize("status", ["503 Service Unavailable", "408 Slow", "425 Early", "429 Many"])
async def test_a_refusal_that_may_pass_is_tried_again(
    certificates: Certificates, status: str
) -> None:
    busy = refuse(status, b"later")
    observer = Observer()
    with ScriptedService(certificates, busy, busy, OK) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
        assert service.connections == 3
    assert observer.causes == [ServiceUnavailable, ServiceUnavailable]
    assert all(delay >= backoff.MIN_DELAY for _, delay in observer.retries)


@pytest.mark.parametrize("status", ["200 OK", "302 Found"])
async def test_something_else_is_final_at_first(certificates: Certificates, status: str) -> None:
    login = refuse(status, b"<html>")
    with ScriptedService(certificates, login) as service:
        with pytest.raises(NotTunnelingService, match="not a tunneling service"):
            await supervisor(service, Observer()).run()
        assert service.connections == 1
    observer = Observer()
    with ScriptedService(certificates, BROKEN, login, OK) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
    assert observer.causes == [LinkError, NotTunnelingService]


async def test_a_changed_request_is_final_at_first(certificates: Certificates) -> None:
    stripped = refuse("426 Upgrade Required", b"no header Upgrade")
    with ScriptedService(certificates, stripped) as service:
        with pytest.raises(HandshakeAltered):
            await supervisor(service, Observer()).run()
        assert service.connections == 1
    observer = Observer()
    with ScriptedService(certificates, BROKEN, stripped, OK) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
    assert observer.causes == [LinkError, HandshakeAltered]


async def test_a_page_of_the_network_is_not_the_end_of_the_tunnel(
    certificates: Certificates,
) -> None:
    """A close frame, and then a block page: only a refused token says that the tunnel ended."""
    restarting = serve(close_frame(1012), Peer.read_to_end)
    blocked = refuse("403 Forbidden", b"<html>blocked")
    observer = Observer()
    with ScriptedService(certificates, restarting, blocked, OK) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
    assert observer.causes == [LinkError, NotTunnelingService]


async def test_an_acceptance_that_is_none_is_tried_again(certificates: Certificates) -> None:
    def no_subprotocol(peer: Peer) -> None:
        peer.upgrade(subprotocol=None)
        peer.read_to_end()

    observer = Observer()
    with ScriptedService(certificates, no_subprotocol, OK) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
    assert observer.causes == [HandshakeFailed]


@pytest.mark.parametrize("kind", [ConnectFailed, NameResolutionFailed])
async def test_an_unreachable_service_is_tried_again(
    certificates: Certificates, kind: type[LinkError], unknown_host: str
) -> None:
    changes = {"port": 1} if kind is ConnectFailed else {"host": unknown_host}
    observer = Observer()
    with ScriptedService(certificates, OK) as service:
        with pytest.raises(kind) as caught:
            await supervisor(service, observer, {"retry_count": 2}, **changes).run()
        assert service.connections == 0
    assert observer.causes == [kind, kind]
    assert caught.value is not observer.retries[-1][0]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_retries_are_counted(certificates: Certificates, count: int) -> None:
    observer = Observer()
    with ScriptedService(certificates, refuse("502 Bad Gateway")) as service:
        with pytest.raises(ServiceUnavailable):
            await supervisor(service, observer, {"retry_count": count}).run()
        assert service.connections == count + 1
    assert len(observer.retries) == count


async def test_links_that_end_at_once_count_as_failures(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, dropped) as service:
        with pytest.raises(LinkError, match="closed by the network") as caught:
            await supervisor(service, observer, {"retry_count": 2}).run()
        assert service.connections == 3
    assert type(caught.value) is LinkError


class Longest(Random):
    """Always draws the upper limit."""

    def uniform(self, a: float, b: float) -> float:
        return b


async def test_a_strangers_certificate_is_final_at_first(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, OK, cert=certificates.stranger) as service:
        with pytest.raises(TLSFailed) as caught:
            await supervisor(service, observer).run()
        assert service.connections == 1
    assert not caught.value.retryable
    assert observer.retries == []


async def test_a_strangers_certificate_is_forgiven_once_a_link_worked(
    certificates: Certificates,
) -> None:
    stranger = certificates.server_context(certificates.stranger)

    def script(peer: Peer) -> None:
        peer.start_tls(stranger if peer.number == 1 else certificates.server_context())
        (dropped if peer.number == 0 else OK)(peer)

    observer = Observer()
    with ScriptedService(certificates, script, plain=True) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
    assert observer.causes == [LinkError, CertificateRejected]


async def test_trust_that_is_out_of_reach_for_a_moment_is_forgiven_once_a_link_worked(
    certificates: Certificates, tmp_path: Path
) -> None:
    authorities = tmp_path / "authorities.pem"
    good = certificates.ca_file.read_bytes()
    authorities.write_bytes(good)
    observer = Observer()
    observer.on_down = lambda closed: authorities.write_bytes(b"half of a roll-over") and None

    def heal() -> None:
        if len(observer.retries) == 2:
            authorities.write_bytes(good)

    observer.on_retry = heal
    with ScriptedService(certificates, dropped, OK) as service:
        made = supervisor(service, observer, tls=TLSOptions(authorities))
        assert await made.run() is SupervisorOutcome.CLOSED
        assert service.connections == 2
    assert [str(cause) for cause, _ in observer.retries][1] == (
        f"certificate file {authorities} holds no PEM certificate"
    )
    authorities.write_bytes(b"")
    with pytest.raises(ConfigurationError, match="holds no PEM"):
        await supervisor(service, Observer(), tls=TLSOptions(authorities)).run()


async def test_no_tls_at_the_other_end_is_tried_again(certificates: Certificates) -> None:
    def script(peer: Peer) -> None:
        if peer.number == 0:
            peer.read(1)  # A reset that comes earlier may refuse the connection itself.
            peer.reset()
            return
        peer.start_tls(certificates.server_context())
        OK(peer)

    observer = Observer()
    with ScriptedService(certificates, script, plain=True) as service:
        assert await supervisor(service, observer).run() is SupervisorOutcome.CLOSED
    assert observer.causes == [TLSFailed]


async def test_pings_carry_milliseconds_and_tell_the_round_trip(certificates: Certificates) -> None:
    pings: list[Frame] = []

    def script(peer: Peer) -> None:
        peer.upgrade(frame(PONG, b"unsolicited"))
        for _ in range(3):
            pings.append(peer.read_frame())
            peer.send_frame(PONG, pings[-1].payload)
        until_closed(peer)

    observer = Observer()
    with ScriptedService(certificates, script) as service:
        made = supervisor(service, observer, {"ping_period": 0.05})
        assert made.round_trip is None
        running = asyncio.get_running_loop().create_task(made.run())
        while not observer.handlers:
            await asyncio.sleep(0)
        (handler,) = observer.handlers
        await handler.until(lambda: len(handler.pongs) == 4)
        assert made.round_trip is not None
        assert made.round_trip > 0
        made.stop()
        assert await running is SupervisorOutcome.STOPPED
    assert made.round_trip is None
    assert all(each.opcode == PING for each in pings)
    assert all(len(each.payload) == 13 and each.payload.isdigit() for each in pings)
    assert handler.pongs == [b"unsolicited", *(each.payload for each in pings)]


async def test_a_mute_service_is_given_up(certificates: Certificates) -> None:
    def mute(peer: Peer) -> None:
        peer.upgrade()
        peer.stay_silent()

    observer = Observer()
    with ScriptedService(certificates, mute, OK) as service:
        outcome = await supervisor(service, observer, {"ping_period": 0.05}).run()
    assert outcome is SupervisorOutcome.CLOSED
    assert observer.ends[0] == LinkClosed(ClosedBy.NETWORK, 1006, "nothing received for 0.15 s")


async def test_a_service_that_only_ignores_pings_is_not(certificates: Certificates) -> None:
    def talk(peer: Peer) -> None:
        peer.upgrade()
        for _ in range(12):
            peer.released.wait(0.04)
            peer.send_frame(BINARY, b"still here")
        peer.send(close_frame(1000))
        peer.read_to_end()

    observer = Observer()
    with ScriptedService(certificates, talk) as service:
        outcome = await supervisor(service, observer, {"ping_period": 0.1}).run()
    assert outcome is SupervisorOutcome.CLOSED
    assert observer.retries == []


async def test_stop_before_the_start(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, OK) as service:
        made = supervisor(service, observer)
        made.stop()
        assert await made.run() is SupervisorOutcome.STOPPED
        assert service.connections == 0


@pytest.mark.parametrize("step", ["tls", "upgrade"])
async def test_stop_during_a_try(certificates: Certificates, step: str) -> None:
    observer = Observer()
    with ScriptedService(certificates, Peer.stay_silent, plain=step == "tls") as service:
        made = supervisor(service, observer)
        running = asyncio.get_running_loop().create_task(made.run())
        while not service.connections:
            await asyncio.sleep(0.01)
        made.stop()
        made.stop()
        assert await running is SupervisorOutcome.STOPPED
    assert observer.events == ["handler"]


async def test_stop_during_a_delay(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Random", Longest)
    observer = Observer()
    with ScriptedService(certificates, refuse("503 Service Unavailable")) as service:
        made = LinkSupervisor(
            service.endpoint(),
            ReconnectPolicy(retry_delay=10_000.0, retry_delay_cap=10_000.0),
            observer,
        )
        running = asyncio.get_running_loop().create_task(made.run())
        while not observer.retries:
            await asyncio.sleep(0.01)
        made.stop()
        assert await running is SupervisorOutcome.STOPPED


@pytest.mark.parametrize("event", ["opened", "down", "retry"])
async def test_stop_from_within_an_observer(certificates: Certificates, event: str) -> None:
    observer = Observer()
    with ScriptedService(certificates, serve(close_frame(1011), until_closed)) as service:
        made = supervisor(service, observer)
        if event == "opened":
            observer.on_opened = lambda link: made.stop()
        elif event == "down":
            observer.on_down = lambda closed: made.stop()
        else:
            observer.on_retry = made.stop
        assert await made.run() is SupervisorOutcome.STOPPED
        assert service.connections == 1


async def test_stop_closes_an_open_link_orderly(certificates: Certificates) -> None:
    frames: list[Frame] = []

    def script(peer: Peer) -> None:
        peer.upgrade()
        while not frames or frames[-1].opcode != CLOSE:
            frames.append(peer.read_frame())
        peer.send(close_frame(1000))
        peer.read_to_end()

    observer = Observer()
    with ScriptedService(certificates, script) as service:
        made = supervisor(service, observer)
        running = asyncio.get_running_loop().create_task(made.run())
        while not observer.links:
            await asyncio.sleep(0.01)
        observer.links[0].send(b"last words")
        made.stop()
        assert await running is SupervisorOutcome.STOPPED
    assert observer.ends == [LinkClosed(ClosedBy.US, 1000, "")]
    assert [each.payload for each in frames[1:]] == [b"last words", b"\x03\xe8"]


async def test_stop_while_a_try_fails(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = Observer()

    async def fail(*_: object) -> Link:
        # No network can be made to fail in the very turn of the loop in which stop() is called.
        made.stop()
        raise LinkError("too late to matter")

    monkeypatch.setattr(module, "connect", fail)
    with ScriptedService(certificates, OK) as service:
        made = supervisor(service, observer)
        assert await made.run() is SupervisorOutcome.STOPPED
    assert observer.retries == []


async def test_stop_while_the_handler_is_made(certificates: Certificates) -> None:
    class Late(Observer):
        def new_handler(self) -> Recorder:
            made.stop()
            return super().new_handler()

    with ScriptedService(certificates, OK) as service:
        made = supervisor(service, Late())
        assert await made.run() is SupervisorOutcome.STOPPED
        assert service.connections == 0


async def test_cancelling_leaves_nothing(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, serve(until_closed)) as service:
        running = asyncio.get_running_loop().create_task(supervisor(service, observer).run())
        while not observer.links:
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    # Even then the handler has heard the end.
    assert observer.handlers[0].closed.done()


async def test_an_observer_with_a_bug_leaves_nothing(certificates: Certificates) -> None:
    def stumble(link: Link) -> None:
        raise ZeroDivisionError

    observer = Observer()
    observer.on_opened = stumble
    with (
        ScriptedService(certificates, serve(until_closed)) as service,
        pytest.raises(ZeroDivisionError),
    ):
        await supervisor(service, observer).run()
    assert observer.handlers[0].closed.done()


async def test_the_back_end_is_passed_on(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, OK) as service:
        policy = ReconnectPolicy()
        await LinkSupervisor(service.endpoint(), policy, observer, backend="websockets").run()
        assert observer.links[0].info.backend == "websockets"
        with pytest.raises(ConfigurationError):
            await LinkSupervisor(service.endpoint(), policy, observer, backend="pigeon").run()


# -- the whole policy, on a clock of our own --------------------------------------------------


class StagedLink:
    """A link of which a test decides what it hears and how long it lives."""

    info = LinkInfo("aws.iot.securetunneling-3.0", "channel", "staged", "nowhere")

    def __init__(self, handler: LinkHandler, stage: Stage, *heard: float) -> None:
        self.handler = handler
        self._stage = stage
        self._opened = stage.now
        self._heard = heard

    @property
    def last_received(self) -> float:
        times = [self._opened + after for after in (0.0, *self._heard)]
        return max(time for time in times if time <= self._stage.now)

    def send_ping(self, payload: bytes) -> None:
        assert payload.isdigit()
        self._stage.pings.append(self._stage.now)

    def abort(self) -> None:
        self.end(LinkClosed(ClosedBy.US, 1006, "dropped"))

    def close(self, code: int, reason: str) -> None:
        self.end(LinkClosed(ClosedBy.US, code, reason))

    def end(self, closed: LinkClosed) -> None:
        self._stage.ends.append(self._stage.now)
        self.handler.link_closed(closed)


@dataclass(frozen=True)
class Fails:
    """A try that does."""


@dataclass(frozen=True)
class Later:
    """A try after which the service asks for a delay."""

    seconds: float


@dataclass(frozen=True)
class Lasts:
    """A link that is cut after some seconds."""

    seconds: float


@dataclass(frozen=True)
class Hears:
    """A link that is never cut, and hears something after these seconds."""

    after: tuple[float, ...] = ()


class Stage:
    """Plays what happens to one try after the other; the last one for ever."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *acts: Fails | Later | Lasts | Hears
    ) -> None:
        self.tries: list[float] = []
        self.pings: list[float] = []
        self.ends: list[float] = []
        self.observer = Observer()
        self._acts = acts
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(module, "connect", self._connect)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def run(self, tries: int, jitter: type[Random] = Longest, **policy: Any) -> SupervisorOutcome:
        """Keep a link until it was tried so often, or it is given up."""
        self._monkeypatch.setattr(module, "Random", jitter)

        async def keep() -> SupervisorOutcome:
            kept = LinkSupervisor(
                ServiceEndpoint(host="localhost", side=Side.SOURCE, access_token=Secret("token")),
                ReconnectPolicy(**policy),
                self.observer,
            )
            self.stop = kept.stop
            self._stop = lambda: len(self.tries) == tries and kept.stop()
            return await kept.run()

        with asyncio.Runner(loop_factory=ClockLoop) as runner:
            return runner.run(keep())

    async def _connect(
        self, endpoint: ServiceEndpoint, handler: LinkHandler, backend: str
    ) -> StagedLink:
        self.tries.append(self.now)
        self._stop()
        match self._acts[min(len(self.tries), len(self._acts)) - 1]:
            case Lasts(seconds):
                link = StagedLink(handler, self, *map(float, range(int(seconds))))
                cut = LinkClosed(ClosedBy.NETWORK, 1006, "connection lost")
                asyncio.get_running_loop().call_later(seconds, link.end, cut)
                return link
            case Later(seconds):
                raise ServiceUnavailable("later", retry_after=seconds)
            case Hears(after):
                return StagedLink(handler, self, *after)
        raise ConnectFailed("nobody there")


FAILS = Fails()


@pytest.mark.parametrize(
    ("acts", "tries"),
    [
        # Twice as long each time, up to the cap, for ever.
        ([FAILS], [0, 2.5, 7.5, 17.5, 37.5, 77.5, 157.5, 277.5, 397.5, 517.5]),
        # A link that broke at once is no better than a failed try.
        ([FAILS, FAILS, Lasts(4.9), FAILS], [0, 2.5, 7.5, 22.4, 42.4, 82.4]),
        # One that lasted a little earns one quick try.
        ([FAILS, FAILS, Lasts(5), FAILS], [0, 2.5, 7.5, 13, 23, 43]),
        ([FAILS, FAILS, Lasts(59.9), FAILS], [0, 2.5, 7.5, 67.9, 77.9, 97.9]),
        ([Lasts(5), Lasts(5), FAILS], [0, 5.5, 11, 13.5, 18.5]),
        # A minute is as good as new.
        ([FAILS, FAILS, Lasts(60), FAILS], [0, 2.5, 7.5, 68, 70.5, 75.5, 85.5]),
        # What the service asks for is the least, and the cap the most.
        ([Later(1), Later(7), Later(1e9), FAILS], [0, 2.5, 9.5, 129.5, 149.5]),
    ],
)
def test_tries_come_when_the_policy_says(
    monkeypatch: pytest.MonkeyPatch, acts: list[Fails | Later | Lasts], tries: list[float]
) -> None:
    stage = Stage(monkeypatch, *acts)
    stage.run(len(tries))
    assert stage.tries == pytest.approx(tries)


def test_full_jitter_may_be_short_but_never_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shortest(Random):
        def uniform(self, a: float, b: float) -> float:
            return a

    stage = Stage(monkeypatch, FAILS)
    stage.run(1000, Shortest)
    gaps = [after - before for before, after in pairwise(stage.tries)]
    assert gaps == pytest.approx([MIN_DELAY] * 999)


def test_the_settings_of_the_delays_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, FAILS)
    with pytest.raises(ConnectFailed):
        stage.run(0, retry_count=4, retry_delay=10.0, retry_delay_cap=30.0)
    assert stage.tries == [0, 10, 30, 60, 90]


def test_a_link_that_lasted_starts_the_count_of_tries_afresh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(monkeypatch, FAILS, Lasts(5), FAILS)
    with pytest.raises(ConnectFailed):
        stage.run(0, retry_count=1)
    assert stage.tries == pytest.approx([0, 2.5, 8, 13])


@pytest.mark.parametrize(
    ("heard", "end"), [((), 60), ((1.0,), 61), ((59.0,), 119), ((30.0, 80.0, 139.0), 199)]
)
def test_a_link_is_dead_after_three_periods_without_a_byte(
    monkeypatch: pytest.MonkeyPatch, heard: tuple[float, ...], end: float
) -> None:
    stage = Stage(monkeypatch, Hears(heard))
    stage.run(2)
    assert stage.ends[0] == pytest.approx(end)
    # Pinged all the while, and set up again quickly, as it had lasted.
    assert [ping for ping in stage.pings if ping < end] == pytest.approx(
        [20.0 * n for n in range(int((end - 0.1) / 20) + 1)]
    )
    assert stage.tries == pytest.approx([0, end + 0.5])
    assert stage.observer.ends[0] == LinkClosed(ClosedBy.NETWORK, 1006, "nothing received for 60 s")


def test_no_try_after_a_stop_while_the_handler_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, FAILS)
    make, stage.observer.new_handler = stage.observer.new_handler, lambda: stage.stop() or make()
    assert stage.run(0) is SupervisorOutcome.STOPPED
    assert stage.tries == []


def test_a_links_reports_reach_the_observers_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    def report(link: Link) -> None:
        handler = cast(StagedLink, link).handler
        handler.frame_received(memoryview(b"frame"))
        handler.pong_received(b"pong")
        handler.writing_paused()
        handler.writing_resumed()

    stage = Stage(monkeypatch, Lasts(1), FAILS)
    stage.observer.on_opened = report
    stage.run(2)
    heard = stage.observer.handlers[0]
    assert (heard.frames, heard.pongs) == ([b"frame"], [b"pong"])
    assert heard.marks == ["paused", "resumed"]


def test_stop_in_the_turn_in_which_a_link_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, Hears())
    assert stage.run(1) is SupervisorOutcome.STOPPED
    assert stage.observer.events == ["handler", "opened", "down"]
    assert stage.observer.ends == [LinkClosed(ClosedBy.US, 1000, "")]
    assert (stage.ends, stage.pings) == ([0], [])


@pytest.mark.parametrize(
    "fields",
    [{"retry_count": -2}, {"retry_delay": -1.0}, {"retry_delay_cap": -1.0}, {"ping_period": 0.0}],
)
def test_policies_make_sense(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ReconnectPolicy(**fields)
