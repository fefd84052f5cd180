"""Keeping a link: what ends it, what is tried again, and that nothing is tried in a frenzy."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support_ws import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    Certificates,
    Frame,
    Peer,
    Recorder,
    Script,
    ScriptedService,
    close_frame,
    frame,
    refuse,
    serve,
    until_closed,
)
from tailrace.errors import (
    AccessRefused,
    ConfigurationError,
    ConnectFailed,
    HandshakeFailed,
    LinkError,
    NameResolutionFailed,
    ServiceUnavailable,
    TLSFailed,
)
from tailrace.link import ClosedBy, Link, LinkClosed
from tailrace.link import keeper as module
from tailrace.link.backoff import LASTED, MIN_DELAY, SETTLED
from tailrace.link.keeper import KeeperOutcome, LinkKeeper, ReconnectPolicy
from tailrace.link.target import TLSOptions

QUICK: dict[str, Any] = {"retry_delay": 0.0, "retry_delay_cap": 0.0}
"""The shortest delays there are."""


class Observer:
    """Notes what the keeper reports; may act on it."""

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


class Clock:
    """Makes each link last as long as the test says."""

    def __init__(self, *lasts: float) -> None:
        self.times = [time for last in lasts for time in (0.0, last)]

    def __call__(self) -> float:
        return self.times.pop(0) if self.times else 0.0


def keeper(
    service: ScriptedService,
    observer: Observer,
    policy: dict[str, Any] | None = None,
    clock: Clock | None = None,
    **changes: Any,
) -> LinkKeeper:
    return LinkKeeper(
        service.target(**changes),
        ReconnectPolicy(**(QUICK | (policy or {}))),
        observer,
        rng=random.Random(1),
        clock=clock or Clock(),
    )


OK = serve(close_frame(1000, "tunnel closed"), Peer.read_to_end)
BROKEN = serve(close_frame(1011, "restarting"), Peer.read_to_end)


def dropped(peer: Peer) -> None:
    """Accept the upgrade, then end the connection without a word."""
    peer.upgrade()


async def test_a_tunnel_that_is_closed(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, OK) as service:
        assert await keeper(service, observer).run() is KeeperOutcome.CLOSED
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
        assert await keeper(service, observer).run() is KeeperOutcome.CLOSED
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
        assert await keeper(service, observer).run() is KeeperOutcome.CLOSED
        assert service.connections == 2
    ((cause, _),) = observer.retries
    assert str(cause) == f"the link was closed by the service ({code or 1005})"


@pytest.mark.parametrize("rude", [False, True])
async def test_a_dropped_link_comes_back(certificates: Certificates, rude: bool) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.read_frame()  # the first ping
        if rude:
            peer.reset()

    observer = Observer()
    with ScriptedService(certificates, script, OK) as service:
        assert await keeper(service, observer).run() is KeeperOutcome.CLOSED
    ((cause, _),) = observer.retries
    assert str(cause).startswith("the link was closed by the network (1006): ")


async def test_a_link_we_had_to_close_comes_back(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, serve(frame(0x1, b"text")), OK) as service:
        assert await keeper(service, observer).run() is KeeperOutcome.CLOSED
    ((cause, _),) = observer.retries
    assert str(cause).startswith("the link was closed by the local side (1003): ")


async def test_a_refusal_is_final(certificates: Certificates) -> None:
    observer = Observer()
    refusal = refuse("403 Forbidden", b"Invalid access-token")
    with ScriptedService(certificates, refusal) as service:
        with pytest.raises(AccessRefused, match="Invalid access-token"):
            await keeper(service, observer).run()
        assert service.connections == 1
    assert observer.events == ["handler"]


async def test_a_refusal_after_a_drop_is_final(certificates: Certificates) -> None:
    # The one-time token, used without a client token.
    observer = Observer()
    refusal = refuse("400 Bad Request", b"previously used")
    with ScriptedService(certificates, dropped, refusal) as service:
        with pytest.raises(AccessRefused, match="previously used"):
            await keeper(service, observer).run()
        assert service.connections == 2


@pytest.mark.parametrize("between", [[], [refuse("503 Service Unavailable")]])
async def test_a_refusal_after_a_close_frame_is_the_end_of_the_tunnel(
    certificates: Certificates, between: list[Script]
) -> None:
    observer = Observer()
    scripts = [BROKEN, *between, refuse("403 Forbidden", b"Tunnel is closed")]
    with ScriptedService(certificates, *scripts) as service:
        assert await keeper(service, observer).run() is KeeperOutcome.ENDED
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
        await keeper(service, observer).run()


async def test_5xx_is_tried_again(certificates: Certificates) -> None:
    busy = refuse("503 Service Unavailable", b"later")
    observer = Observer()
    with ScriptedService(certificates, busy, busy, OK) as service:
        assert await keeper(service, observer).run() is KeeperOutcome.CLOSED
        assert service.connections == 3
    assert observer.causes == [ServiceUnavailable, ServiceUnavailable]
    assert all(delay >= MIN_DELAY for _, delay in observer.retries)


async def test_an_acceptance_that_is_none_is_tried_again(certificates: Certificates) -> None:
    def no_subprotocol(peer: Peer) -> None:
        peer.upgrade(subprotocol=None)
        peer.read_to_end()

    observer = Observer()
    with ScriptedService(certificates, no_subprotocol, OK) as service:
        assert await keeper(service, observer).run() is KeeperOutcome.CLOSED
    assert observer.causes == [HandshakeFailed]


@pytest.mark.parametrize("kind", [ConnectFailed, NameResolutionFailed])
async def test_an_unreachable_service_is_tried_again(
    certificates: Certificates, kind: type[LinkError], unknown_host: str
) -> None:
    changes = {"port": 1} if kind is ConnectFailed else {"host": unknown_host}
    observer = Observer()
    with ScriptedService(certificates, OK) as service:
        with pytest.raises(kind) as caught:
            await keeper(service, observer, {"retry_count": 2}, **changes).run()
        assert service.connections == 0
    assert observer.causes == [kind, kind]
    assert caught.value is not observer.retries[-1][0]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_retries_are_counted(certificates: Certificates, count: int) -> None:
    observer = Observer()
    with ScriptedService(certificates, refuse("502 Bad Gateway")) as service:
        with pytest.raises(ServiceUnavailable):
            await keeper(service, observer, {"retry_count": count}).run()
        assert service.connections == count + 1
    assert len(observer.retries) == count


async def test_links_that_end_at_once_count_as_failures(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, dropped) as service:
        with pytest.raises(LinkError, match="closed by the network") as caught:
            await keeper(service, observer, {"retry_count": 2}).run()
        assert service.connections == 3
    assert type(caught.value) is LinkError


async def test_a_link_that_lasted_starts_the_count_afresh(certificates: Certificates) -> None:
    busy = refuse("503 Service Unavailable")
    observer = Observer()
    with ScriptedService(certificates, busy, dropped, busy, OK) as service:
        clock = Clock(LASTED)
        outcome = await keeper(service, observer, {"retry_count": 1}, clock).run()
        assert outcome is KeeperOutcome.CLOSED
        assert service.connections == 4


class Longest(random.Random):
    """Dice that always show the upper limit."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(
    ("lasted", "delays"),
    [
        (0.0, [0.06, 0.12, 0.24, 0.48]),
        (LASTED, [0.06, 0.12, 0.06, 0.24]),
        (SETTLED, [0.06, 0.12, 0.06, 0.12]),
    ],
)
async def test_delays_grow_and_fall_back(
    certificates: Certificates, lasted: float, delays: list[float]
) -> None:
    busy = refuse("503 Service Unavailable")
    observer = Observer()
    with ScriptedService(certificates, busy, busy, dropped, busy, OK) as service:
        outcome = await LinkKeeper(
            service.target(),
            ReconnectPolicy(retry_delay=0.06, retry_delay_cap=9.0),
            observer,
            rng=Longest(),
            clock=Clock(lasted),
        ).run()
    assert outcome is KeeperOutcome.CLOSED
    assert [delay for _, delay in observer.retries] == pytest.approx(delays)


async def test_a_strangers_certificate_is_final_at_first(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, OK, cert=certificates.stranger) as service:
        with pytest.raises(TLSFailed) as caught:
            await keeper(service, observer).run()
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
        assert await keeper(service, observer).run() is KeeperOutcome.CLOSED
    assert observer.causes == [LinkError, TLSFailed]


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
        made = keeper(service, observer, tls=TLSOptions(authorities))
        assert await made.run() is KeeperOutcome.CLOSED
        assert service.connections == 2
    assert [str(cause) for cause, _ in observer.retries][1] == (
        f"certificate file {authorities} holds no PEM certificate"
    )
    authorities.write_bytes(b"")
    with pytest.raises(ConfigurationError, match="holds no PEM"):
        await keeper(service, Observer(), tls=TLSOptions(authorities)).run()


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
        assert await keeper(service, observer).run() is KeeperOutcome.CLOSED
    assert observer.causes == [TLSFailed]


async def test_pings_carry_milliseconds_and_time_the_way(certificates: Certificates) -> None:
    pings: list[Frame] = []

    def script(peer: Peer) -> None:
        peer.upgrade(frame(PONG, b"unsolicited"))
        for _ in range(3):
            pings.append(peer.read_frame())
            peer.send_frame(PONG, pings[-1].payload)
        until_closed(peer)

    observer = Observer()
    with ScriptedService(certificates, script) as service:
        made = keeper(service, observer, {"ping_period": 0.05})
        assert made.round_trip is None
        running = asyncio.get_running_loop().create_task(made.run())
        while not observer.handlers:
            await asyncio.sleep(0)
        (handler,) = observer.handlers
        await handler.until(lambda: len(handler.pongs) == 4)
        assert made.link is observer.links[0]
        assert made.round_trip is not None
        assert made.round_trip > 0
        made.stop()
        assert await running is KeeperOutcome.STOPPED
    assert made.link is None
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
        outcome = await keeper(service, observer, {"ping_period": 0.05}).run()
    assert outcome is KeeperOutcome.CLOSED
    assert observer.ends[0] == LinkClosed(ClosedBy.NETWORK, 1006, "nothing received for 0.15 s")


async def test_a_service_that_only_ignores_pings_is_not(certificates: Certificates) -> None:
    def talk(peer: Peer) -> None:
        peer.upgrade()
        for _ in range(12):
            peer.released.wait(0.05)
            peer.send_frame(BINARY, b"still here")
        peer.send(close_frame(1000))
        peer.read_to_end()

    observer = Observer()
    with ScriptedService(certificates, talk) as service:
        outcome = await keeper(service, observer, {"ping_period": 0.15}).run()
    assert outcome is KeeperOutcome.CLOSED
    assert observer.retries == []


async def test_stop_before_the_start(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, OK) as service:
        made = keeper(service, observer)
        made.stop()
        assert await made.run() is KeeperOutcome.STOPPED
        assert service.connections == 0


@pytest.mark.parametrize("step", ["tls", "upgrade"])
async def test_stop_during_a_try(certificates: Certificates, step: str) -> None:
    observer = Observer()
    with ScriptedService(certificates, Peer.stay_silent, plain=step == "tls") as service:
        made = keeper(service, observer)
        running = asyncio.get_running_loop().create_task(made.run())
        while not service.connections:
            await asyncio.sleep(0.01)
        made.stop()
        made.stop()
        assert await running is KeeperOutcome.STOPPED
    assert observer.events == ["handler"]


async def test_stop_during_a_delay(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, refuse("503 Service Unavailable")) as service:
        made = LinkKeeper(
            service.target(),
            ReconnectPolicy(retry_delay=10_000.0, retry_delay_cap=10_000.0),
            observer,
            rng=Longest(),
        )
        running = asyncio.get_running_loop().create_task(made.run())
        while not observer.retries:
            await asyncio.sleep(0.01)
        made.stop()
        assert await running is KeeperOutcome.STOPPED


@pytest.mark.parametrize("event", ["opened", "down", "retry"])
async def test_stop_from_within_an_observer(certificates: Certificates, event: str) -> None:
    observer = Observer()
    with ScriptedService(certificates, serve(close_frame(1011), until_closed)) as service:
        made = keeper(service, observer)
        if event == "opened":
            observer.on_opened = lambda link: made.stop()
        elif event == "down":
            observer.on_down = lambda closed: made.stop()
        else:
            observer.on_retry = made.stop
        assert await made.run() is KeeperOutcome.STOPPED
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
        made = keeper(service, observer)
        running = asyncio.get_running_loop().create_task(made.run())
        while not observer.links:
            await asyncio.sleep(0.01)
        observer.links[0].send(b"last words")
        made.stop()
        assert await running is KeeperOutcome.STOPPED
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
        made = keeper(service, observer)
        assert await made.run() is KeeperOutcome.STOPPED
    assert observer.retries == []


async def test_stop_while_the_handler_is_made(certificates: Certificates) -> None:
    class Late(Observer):
        def new_handler(self) -> Recorder:
            made.stop()
            return super().new_handler()

    with ScriptedService(certificates, OK) as service:
        made = keeper(service, Late())
        assert await made.run() is KeeperOutcome.STOPPED
        assert service.connections == 0


async def test_cancelling_leaves_nothing(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, serve(until_closed)) as service:
        running = asyncio.get_running_loop().create_task(keeper(service, observer).run())
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
        await keeper(service, observer).run()
    assert observer.handlers[0].closed.done()


async def test_the_back_end_is_passed_on(certificates: Certificates) -> None:
    observer = Observer()
    with ScriptedService(certificates, OK) as service:
        policy = ReconnectPolicy()
        await LinkKeeper(service.target(), policy, observer, backend="websockets").run()
        assert observer.links[0].info.backend == "websockets"
        with pytest.raises(ConfigurationError):
            await LinkKeeper(service.target(), policy, observer, backend="pigeon").run()


@pytest.mark.parametrize(
    "fields",
    [{"retry_count": -2}, {"retry_delay": -1.0}, {"retry_delay_cap": -1.0}, {"ping_period": 0.0}],
)
def test_policies_make_sense(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ReconnectPolicy(**fields)
