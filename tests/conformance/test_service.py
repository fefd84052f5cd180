"""Our service, as scripted clients see it."""

from __future__ import annotations

import asyncio
import uuid

from conformance.caller import Caller, fields
from conformance.lab import Lab
from conformance.laboratory import scenario
from conformance.messages import (
    CONNECTION_ACK,
    CONNECTION_FIN,
    CONNECTION_START,
    DATA,
    SERVICE_IDS,
    SESSION_OFFER,
    SESSION_RESET,
    STREAM_RESET,
    STREAM_START,
    Message,
    data,
    message,
    service_ids,
)
from conformance.payloads import Connection, Offer, Progress, ack, fin
from conformance.peers import joined, left
from support.network.frames import TEXT
from support.tunnel import Tunnel, open_tunnel
from tailrace.wire import Side

SOURCE, DESTINATION = Side.SOURCE.value, Side.DESTINATION.value


class Clients:
    """Both sides of a fresh tunnel; each side keeps its client token."""

    def __init__(self, lab: Lab, tunnel: Tunnel) -> None:
        self._lab = lab
        self.tunnel = tunnel
        self._client_tokens = {SOURCE: str(uuid.uuid4()), DESTINATION: str(uuid.uuid4())}

    def token(self, side: str) -> str:
        return self.tunnel.tokens[Side(side)].reveal()

    async def caller(self) -> Caller:
        """Return a connection on which nothing was said yet."""
        caller = await Caller.connect(self.tunnel.endpoints)
        self._lab.on_exit(caller.aclose)
        return caller

    async def join(self, side: str, *more: tuple[str, str]) -> Caller:
        """Return an accepted client that has been told the service ids.

        Args:
            more: further header fields of its request.
        """
        caller = await self.caller()
        header = fields(self.token(side), self._client_tokens[side])
        assert await caller.ask([*header, *more], side) == (101, "")
        await caller.expect(service_ids(*self.tunnel.services))
        assert len(caller.frames) == 1, "something shares the frame of the service ids"
        return caller


async def clients_of(lab: Lab, *services: str) -> Clients:
    service = await lab.service()
    opened = await asyncio.to_thread(open_tunnel, service.endpoints, service.control, *services)
    return Clients(lab, opened)


@scenario("S57", ours_alone=True)
async def test_s57_bad_handshakes(lab: Lab) -> None:
    """Each is refused, and none of them uses the token up."""
    clients = await clients_of(lab, "SSH1")
    token = clients.token(SOURCE)
    good = fields(token)
    cookie = ("Cookie", f"awsiot-tunnel-token={token}")
    target = "/tunnel?local-proxy-mode="
    bad = {
        "two access-token fields": ([*good, ("access-token", token)], ""),
        "cookie and field": ([*good, cookie], ""),
        "two cookies": ([*fields(None), cookie, cookie], ""),
        "no token": (fields(None), ""),
        "unknown token": (fields("A" * 100), ""),
        "token of the other side": (fields(clients.token(DESTINATION)), ""),
        "mode of the other side": (good, f"{target}destination"),
        "unknown mode": (good, f"{target}both"),
        "no mode": (good, "/tunnel"),
        "another path": (good, "/x?local-proxy-mode=source"),
        "5 kB": ([*good, ("X-Filler", "x" * 5000)], ""),
        "unknown subprotocol": (fields(token, subprotocol="aws.iot.securetunneling-9.0"), ""),
        "no subprotocol": (fields(token, subprotocol=None), ""),
        "short client token": (fields(token, "short"), ""),
        "two client tokens": ([*fields(token, "c" * 32), ("client-token", "d" * 32)], ""),
    }
    for what, (header, path) in bad.items():
        status, body = await (await clients.caller()).ask(header, target=path)
        assert 400 <= status < 500, f"{what}: status {status}"
        assert body, f"{what}: no text"
    status, _ = await (await clients.caller()).ask(good)
    assert status == 101
    status, body = await (await clients.caller()).ask(good)
    assert status == 400
    assert "previously used" in body


@scenario("S57", ours_alone=True)
async def test_s57_cookie_and_offers(lab: Lab) -> None:
    clients = await clients_of(lab, "SSH1")
    cookie = ("Cookie", f"a=b; awsiot-tunnel-token={clients.token(SOURCE)}")
    offer = "aws.iot.securetunneling-9.0, aws.iot.securetunneling-2.0"
    deflate = ("Sec-WebSocket-Extensions", "permessage-deflate")
    caller = await clients.caller()
    assert await caller.ask([*fields(None, subprotocol=offer), cookie, deflate]) == (101, "")
    assert "Sec-WebSocket-Protocol: aws.iot.securetunneling-2.0\r\n" in caller.head
    assert "extensions" not in caller.head.lower(), "compression was accepted"


@scenario("S58", ours_alone=True)
async def test_s58_destination_replaced(lab: Lab) -> None:
    clients = await clients_of(lab, "SSH1", "HTTP1")
    old = await clients.join(DESTINATION)
    source = await clients.join(SOURCE)
    starts = [
        message(STREAM_START, 4, "SSH1", 9),
        message(CONNECTION_START, 4, "SSH1", 10),
        message(STREAM_START, 7, "HTTP1", 3),
    ]
    for start in starts:
        await source.send(start)
        await old.expect(start)
    new = await clients.join(DESTINATION)
    assert await old.over() not in (None, 1000)
    resets = [await source.next() for _ in range(2)]
    assert {r[:3] for r in resets} == {(STREAM_RESET, 4, "SSH1"), (STREAM_RESET, 7, "HTTP1")}
    assert await source.settled() == []
    await source.send(message(STREAM_START, 5, "SSH1", 11))
    await new.expect(message(STREAM_START, 5, "SSH1", 11))
    await new.send(*data(b"hello", 5, "SSH1", 11))
    await source.expect(*data(b"hello", 5, "SSH1", 11))


@scenario("S58", ours_alone=True)
async def test_s58_source_replaced(lab: Lab) -> None:
    clients = await clients_of(lab, "SSH1")
    destination = await clients.join(DESTINATION)
    old = await clients.join(SOURCE)
    await old.send(message(STREAM_START, 4, "SSH1", 9))
    await destination.expect(message(STREAM_START, 4, "SSH1", 9))
    await clients.join(SOURCE)
    assert await old.over() not in (None, 1000)
    assert (await destination.next())[:3] == (STREAM_RESET, 4, "SSH1")


@scenario("S59", ours_alone=True)
async def test_s59_no_peer(lab: Lab) -> None:
    """Answered at once; and a stream is carried as soon as there is a peer."""
    clients = await clients_of(lab, "SSH1")
    source = await clients.join(SOURCE)
    await source.send(message(STREAM_START, 1, "SSH1", 1))
    assert (await source.next())[:3] == (STREAM_RESET, 1, "SSH1")
    await source.send(*data(b"late", 1, "SSH1", 1))
    destination = await clients.join(DESTINATION)
    await source.send(message(STREAM_START, 2, "SSH1", 2), *data(b"hello", 2, "SSH1", 2))
    await destination.expect(message(STREAM_START, 2, "SSH1", 2))
    await destination.expect(*data(b"hello", 2, "SSH1", 2))


@scenario("S60", ours_alone=True)
async def test_s60_forbidden_messages_of_a_source(lab: Lab) -> None:
    clients = await clients_of(lab, "SSH1")
    destination = await clients.join(DESTINATION)
    start = message(STREAM_START, 1, "SSH1", 1)
    forbidden = {
        "SERVICE_IDS": [service_ids("SSH1")],
        "SESSION_RESET": [message(SESSION_RESET)],
        "type 0": [message(0, 1, "SSH1", 1)],
        "length 0": ["0000"],
        "unknown type": ["00020863"],
        "stream id 0": [message(STREAM_START, 0, "SSH1", 1)],
        "negative stream id": ["000d080210ffffffffffffffffff01"],
        "unknown service": [message(STREAM_START, 1, "VNC", 1)],
        "payload of 64,513": [start, message(DATA, 1, "SSH1", 1, bytes(64_513))],
        "unknown field": [start, "00130801100122017a2a0453534831380142026869"],
        "data before a start": [*data(b"x", 1, "SSH1", 1)],
        "named after unnamed": [message(STREAM_START, 1), message(STREAM_START, 1, "SSH1", 1)],
        "broken message": ["0003ffffff"],
    }
    for what, pieces in forbidden.items():
        source = await clients.join(SOURCE)
        await source.send(*pieces)
        code = await source.over()
        assert code not in (None, 1000), f"{what}: close code {code}"
    source = await clients.join(SOURCE)
    await source.send_frame(TEXT, b"hello")
    assert await source.over() in (1003, 1002)
    for received in await destination.settled():
        assert received.kind in (STREAM_START, STREAM_RESET), f"{received} was passed on"


@scenario("S60", ours_alone=True)
async def test_s60_forbidden_messages_of_a_destination(lab: Lab) -> None:
    clients = await clients_of(lab, "SSH1")
    source = await clients.join(SOURCE)
    for kind in (STREAM_START, CONNECTION_START, SERVICE_IDS, SESSION_RESET):
        destination = await clients.join(DESTINATION)
        await destination.send(message(kind, 1, "SSH1", 1))
        code = await destination.over()
        assert code not in (None, 1000), f"type {kind}: close code {code}"
    assert await source.settled() == []


def offering(*capabilities: str) -> tuple[str, str]:
    """Return the header field with which a client offers what it can do."""
    return "X-Tailrace-Capabilities", ", ".join(capabilities)


OFFER = offering("flow", "pings", "resume")
OF_OURS = [
    Offer(b"s" * 16, 1, highest={"SSH1": 1}).raw,
    ack(Connection(), Progress(3)),
    fin(Connection(), 4),
]
"""With these, connections outlive links."""
KINDS_OF_OURS = {SESSION_OFFER, CONNECTION_ACK, CONNECTION_FIN}


@scenario("L13", ours_alone=True)
async def test_l13_messages_pass_between_two_that_can_resume(lab: Lab) -> None:
    """Unchanged and in order; each is told what the other one can do."""
    clients = await clients_of(lab, "SSH1")
    source = await clients.join(SOURCE, OFFER)
    assert "X-Tailrace-Capabilities: flow, resume\r\n" in source.head
    await source.expect(left())
    await source.send(OF_OURS[0])
    destination = await clients.join(DESTINATION, OFFER)
    await destination.expect(joined("flow, pings, resume"))
    await source.expect(joined("flow, pings, resume"))
    start = message(STREAM_START, 1, "SSH1", 1)
    pieces = [OF_OURS[0], start, *data(b"abcd", 1, "SSH1", 1), *OF_OURS[1:]]
    await source.send(*pieces)
    for each in pieces:
        await destination.expect(each)
    await destination.send(*OF_OURS)
    for each in OF_OURS:
        await source.expect(each)


@scenario("L13", ours_alone=True)
async def test_l13_a_peer_that_leaves_resets_nothing(lab: Lab) -> None:
    """The end that is left is told so, and starts its streams again for whoever comes."""
    clients = await clients_of(lab, "SSH1")
    source, destination = [await clients.join(side, OFFER) for side in (SOURCE, DESTINATION)]
    start = message(STREAM_START, 1, "SSH1", 1)
    await source.send(start)
    await destination.settled()
    await source.settled()
    again = await clients.join(DESTINATION, OFFER)
    await source.expect(left())
    await source.expect(joined("flow, pings, resume"))
    await again.expect(joined("flow, pings, resume"))
    await source.send(*data(b"of a stream that is forgotten", 1, "SSH1", 1), OF_OURS[1])
    assert await source.settled() == []
    assert await again.settled() == []
    await source.send(start, *data(b"again", 1, "SSH1", 1))
    await again.expect(start)
    await again.expect(*data(b"again", 1, "SSH1", 1))


@scenario("L13", ours_alone=True)
async def test_l13_a_source_that_leaves_resets_nothing(lab: Lab) -> None:
    clients = await clients_of(lab, "SSH1")
    source, destination = [await clients.join(side, OFFER) for side in (SOURCE, DESTINATION)]
    await source.send(message(STREAM_START, 1, "SSH1", 1))
    assert STREAM_START in {each.kind for each in await _after(source, destination)}
    await source.aclose()
    await destination.expect(left())
    await destination.send(*data(b"nobody gets this", 1, "SSH1", 1), *OF_OURS)
    assert await destination.settled() == []


async def _after(sender: Caller, receiver: Caller) -> list[Message]:
    """Return what has come of everything that was sent."""
    await sender.settled()
    return await receiver.settled()


@scenario("L14", ours_alone=True)
async def test_l14_nobody_else_is_sent_any(lab: Lab) -> None:
    """Not one that offers less, nor one that offers nothing; what they send is dropped."""
    start = message(STREAM_START, 1, "SSH1", 1)
    for offers in ([], [offering("flow", "pings")], [offering("pings")]):
        for side in (SOURCE, DESTINATION):
            clients = await clients_of(lab, "SSH1")
            joins = {each: await clients.join(each, *offers) for each in (side,)}
            other = DESTINATION if side == SOURCE else SOURCE
            joins[other] = await clients.join(other, OFFER)
            await joins[SOURCE].send(start)
            for each in (SOURCE, DESTINATION):
                await joins[each].send(*OF_OURS)
            seen: dict[str, list[Message]] = {SOURCE: [], DESTINATION: []}
            for _ in range(2):  # what the one has sent reaches the other
                for each in seen:
                    seen[each] += await joins[each].settled()
            kinds = {one.kind for each in seen.values() for one in each}
            assert STREAM_START in kinds
            assert not kinds & KINDS_OF_OURS
            if not offers:
                expected = [start] if side == DESTINATION else []
                assert [each.raw for each in seen[side]] == expected
            await joins[other].aclose()
            found = await _reset(joins[side])
            assert not {m.kind for m in found} & KINDS_OF_OURS
            resets = [m.raw for m in found if m.kind == STREAM_RESET]
            why = f"the {other} has left".encode() if "flow" in str(offers) else b""
            assert resets == [message(STREAM_RESET, 1, "SSH1", 1, why)]


async def _reset(client: Caller) -> list[Message]:
    """Return what comes up to a reset."""
    found = []
    while not found or found[-1].kind != STREAM_RESET:
        found.append(await client.next())
    return found


@scenario("L14", ours_alone=True)
async def test_l14_the_answer_without_an_offer(lab: Lab) -> None:
    """No field tells of offers, and no message of this kind follows."""
    clients = await clients_of(lab, "SSH1")
    source = await clients.join(SOURCE)
    lines = source.head.split("\r\n")
    assert {line.partition(":")[0].lower() for line in lines[1:] if line} == {
        *("upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol", "channel-id")
    }
    destination = await clients.join(DESTINATION)
    await source.send(message(STREAM_START, 1, "SSH1", 1))
    await destination.expect(message(STREAM_START, 1, "SSH1", 1))
    await destination.aclose()
    await source.expect(message(STREAM_RESET, 1, "SSH1", 1))
    assert await source.settled() == []
