"""Connections that outlive links, as the other end of the tunnel and the service see it."""

from __future__ import annotations

import random

from conformance.lab import Lab
from conformance.laboratory import scenario
from conformance.messages import (
    CONNECTION_ACK,
    CONNECTION_FIN,
    CONNECTION_RESET,
    CONNECTION_RESUME,
    CONNECTION_START,
    DATA,
    SESSION_OFFER,
    STREAM_RESET,
    STREAM_START,
    Message,
    Splitter,
    data,
    message,
    read,
)
from conformance.payloads import (
    FIRST_LIMIT,
    NOBODY,
    Connection,
    Offer,
    Progress,
    ack,
    fin,
    read_ack,
)
from conformance.peers import (
    ANSWER,
    Peer,
    destination_and_peer,
    joined,
    left,
    source_and_peer,
)
from conformance.rigs import QUICK, Destination, destination, source
from conformance.sockets import Socket
from conformance.stage import Link
from support.network.ports import free_port

SSH = Connection()
SECOND = Connection(number=2)
LARGEST = 4 * 1024 * 1024
START = message(STREAM_START, 1, "SSH1", 1)
MORE = message(CONNECTION_START, 1, "SSH1", 2)
OURS = {CONNECTION_ACK, CONNECTION_FIN, SESSION_OFFER}


async def payload(link: Link, size: int, of: Connection = SSH) -> bytes:
    """Return ``size`` bytes of data of one connection, passing over other messages."""
    out = b""
    while len(out) < size:
        received = await link.find(DATA)
        if names(received) == of:
            out += received.payload
    assert len(out) == size, f"{len(out)} bytes came, {size} were waited for"
    return out


async def sent(link: Link, socket: Socket, *pieces: bytes, of: Connection = SSH) -> None:
    """Send pieces, each of which arrives in a message of its own: what is lost, is lost whole."""
    for piece in pieces:
        await socket.send(piece)
        assert await payload(link, len(piece), of) == piece


def names(received: Message) -> Connection:
    return Connection(received.service, received.stream, received.connection)


async def quiet(link: Link, *kinds: int) -> list[Message]:
    """Return what the proxy has sent of these kinds, when it has dealt with everything."""
    await link.settled()
    return [each for each in link.pending() if each.kind in kinds]


def everything(link: Link) -> list[Message]:
    """Return all that the proxy has sent on a link, also what was looked at or dropped."""
    splitter = Splitter()
    return [read(raw) for frame in link.frames for raw in splitter.feed(frame.payload)]


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# -- offers ----------------------------------------------------------------------------------


@scenario("L1", ours_alone=True)
async def test_l1_first_offer_of_a_source(lab: Lab) -> None:
    """The first thing on a link; nothing is started before the agreement."""
    rig = await source(lab, "SSH1", "WEB1", answer=ANSWER)
    assert rig.link.request["X-Tailrace-Capabilities"] == "flow, pings, resume"
    peer = Peer(rig)
    first = await peer.hear()
    assert first == Offer(first.sender, 1)
    assert first.sender != NOBODY
    client = await lab.client(rig.ports["SSH1"])
    await client.send(b"early")
    assert await quiet(rig.link, DATA, STREAM_START) == []
    peer.nonce = 1
    await rig.link.send(joined(), peer.offer().raw)
    assert await peer.hear() == Offer(first.sender, 1, peer.id, 1)
    await rig.link.expect(START)
    assert await payload(rig.link, 5) == b"early"


@scenario("L1", ours_alone=True)
async def test_l1_first_offer_of_a_destination(lab: Lab) -> None:
    rig = await destination(lab, answer=ANSWER)
    peer = Peer(rig)
    first = await peer.hear()
    assert first == Offer(first.sender, 1)
    await rig.link.send(START)
    peer.nonce = 1
    await rig.link.send(joined(), peer.offer().raw)
    assert await peer.hear() == Offer(first.sender, 1, peer.id, 1)
    app = await rig.open()
    await rig.check(app)
    assert [m.kind for m in await quiet(rig.link, STREAM_RESET, CONNECTION_RESET)] == []


@scenario("L1", ours_alone=True)
async def test_l1_no_offer_without_an_answer(lab: Lab) -> None:
    """A service that answers nothing, or flow messages alone, gets no message of this kind."""
    for answer in ("", "X-Tailrace-Capabilities: flow\r\n", "X-Tailrace-Flow: 1\r\n"):
        rig = await source(lab, answer={"more": f"channel-id: channel-7\r\n{answer}"})
        ours = {CONNECTION_RESUME} if answer else set()
        client, start = await rig.connect()
        await client.send(b"hello")
        client.half_close()
        await rig.link.find(DATA)
        await rig.link.find(CONNECTION_RESET)
        client, start = await rig.connect()
        await rig.link.settled()
        kinds = {each.kind for each in everything(rig.link) if each.ignorable}
        assert kinds == ours, f"messages of type {kinds} to a service that answered {answer!r}"
        rig.link.drop()
        await client.expect_end()
        await rig.reconnect()
        client, start = await rig.connect()
        assert start[:4] == (STREAM_START, 1, "SSH1", 1)


@scenario("L2", ours_alone=True)
async def test_l2_an_offer_that_does_not_know_the_proxy(lab: Lab) -> None:
    """It is answered, and starts nothing; the one that names the proxy's incarnation does."""
    rig = await source(lab, answer=ANSWER)
    peer = Peer(rig)
    first = await peer.hear()
    client = await lab.client(rig.ports["SSH1"])
    await rig.link.send(joined(), Offer(peer.id, 5, highest={"SSH1": 0}).raw)
    assert await peer.hear() == Offer(first.sender, first.nonce, peer.id, 5)
    assert await quiet(rig.link, STREAM_START, SESSION_OFFER) == []
    await rig.link.send(Offer(peer.id, 5, first.sender, first.nonce, {"SSH1": 0}).raw)
    await rig.link.expect(START)
    client.close()


@scenario("L2", ours_alone=True)
async def test_l2_other_versions_and_other_incarnations(lab: Lab) -> None:
    """An offer of another version means nothing, and one that names an old incarnation little."""
    rig, peer = await destination_and_peer(lab)
    old = peer.heard.nonce
    rig.link.drop()
    await rig.reconnect()
    await peer.hear()
    peer.nonce += 1
    await rig.link.send(joined(), peer.offer(version=2).raw)
    assert await quiet(rig.link, SESSION_OFFER) == []
    await rig.link.send(peer.offer(peer_nonce=old).raw, START)
    await peer.hear()
    assert peer.heard.nonce == old + 1
    assert await quiet(rig.link, STREAM_RESET, CONNECTION_RESET, CONNECTION_RESUME) == []
    await rig.link.send(peer.offer().raw)
    await rig.check(await rig.open())


@scenario("L2", ours_alone=True)
async def test_l2_an_offer_in_parts(lab: Lab) -> None:
    """It counts when the last part has come; connections of all parts go on."""
    rig, peer = await source_and_peer(lab)
    one, _ = await rig.connect()
    two, _ = await rig.connect()
    rig.link.drop()
    await rig.reconnect()
    await peer.hear()
    peer.nonce += 1
    await rig.link.send(joined(), peer.offer({SSH: Progress(0)}, 2, more=True).raw)
    assert await quiet(rig.link, SESSION_OFFER, STREAM_START) == []
    await rig.link.send(peer.offer({SECOND: Progress(0)}, 2).raw)
    await peer.hear()
    await rig.link.expect(START)
    await rig.link.expect(MORE)
    await rig.link.send(*data(b"!", 1, "SSH1", 1), *data(b"?", 1, "SSH1", 2))
    await one.expect(b"!")
    await two.expect(b"?")


# -- going on ----------------------------------------------------------------------------------


@scenario("L3", ours_alone=True)
async def test_l3_a_source_replays_from_what_was_received(lab: Lab) -> None:
    """To the byte: the offer, the starts, and what the peer has not got."""
    rig, peer = await source_and_peer(lab)
    one, _ = await rig.connect()
    two, _ = await rig.connect()
    await sent(rig.link, one, b"0123", b"456789")
    await two.send(b"abc")
    assert await payload(rig.link, 3, SECOND) == b"abc"
    await rig.link.send(*data(b"to one", 1, "SSH1", 1))
    await one.expect(b"to one")
    rig.link.drop()
    await one.send(b"more")
    await rig.reconnect()
    await peer.agree({SSH: Progress(4), SECOND: Progress(3)}, highest=2)
    assert peer.heard.highest == {"SSH1": 2}
    assert peer.heard.places == {
        SSH: Progress(6, 6 + FIRST_LIMIT),
        SECOND: Progress(0, FIRST_LIMIT),
    }
    await rig.link.expect(START)
    await rig.link.expect(MORE)
    assert await payload(rig.link, 10) == b"456789more"
    await rig.link.send(*data(b"!", 1, "SSH1", 1), *data(b"?", 1, "SSH1", 2))
    await one.expect(b"!")
    await two.expect(b"?")


@scenario("L3", ours_alone=True)
async def test_l3_a_destination_waits_for_the_start(lab: Lab) -> None:
    rig, peer = await destination_and_peer(lab)
    app = await rig.open()
    await sent(rig.link, app, b"0123456", b"789")
    await peer.come_back({SSH: Progress(7)}, highest=1)
    await app.send(b"more")
    assert await quiet(rig.link, DATA, CONNECTION_ACK) == []
    await rig.link.send(START)
    assert await payload(rig.link, 7) == b"789more"
    await rig.check(app)


@scenario("L3", ours_alone=True)
async def test_l3_a_client_stalls_while_down(lab: Lab) -> None:
    """What it sends stays with the system: the proxy reads nothing that it could not keep."""
    rig, peer = await source_and_peer(lab)
    client, start = await rig.connect()
    await rig.check(client, start)
    rig.link.drop()
    await rig.proxy.said("trying again")
    size = await client.fill(64 * LARGEST, calm=0.3)
    assert size < 4 * LARGEST, f"{size} bytes were taken although there was no link"
    await rig.reconnect()
    await peer.agree({SSH: Progress(2, 2 + size)}, highest=1)
    got = 0
    while got < size:
        part = (await rig.link.find(DATA)).payload
        assert not part.strip(b"\0")
        got += len(part)
        await rig.link.send(ack(SSH, Progress(2 + got, 2 + size)))
    assert await quiet(rig.link, DATA, CONNECTION_RESET) == []


@scenario("L3", ours_alone=True)
async def test_l3_many_cuts(lab: Lab) -> None:
    """A transfer each way over five links: every byte once, in order."""
    rig, peer = await source_and_peer(lab)
    client, _ = await rig.connect()
    up, down = content(1_000_000, 3), content(1_000_000, 4)
    lab.background(client.send(up))
    got = sent = 0
    for cut in range(5):
        while got < len(up) * (cut + 1) // 5:
            received = await rig.link.find(DATA)
            assert received.payload == up[got : got + len(received.payload)]
            got += len(received.payload)
            await rig.link.send(ack(SSH, Progress(got, got + FIRST_LIMIT)))
        await rig.link.send(*data(down[sent : sent + 200_000], 1, "SSH1", 1))
        await client.expect(down[sent : sent + 200_000])
        sent += 200_000
        await peer.come_back({SSH: Progress(got, got + FIRST_LIMIT)}, highest=1)
        assert peer.heard.places[SSH].received == sent
    assert got == len(up)


@scenario("L4", ours_alone=True)
async def test_l4_a_start_that_was_lost_is_sent_again(lab: Lab) -> None:
    rig, peer = await source_and_peer(lab)
    client, _ = await rig.connect()
    await client.send(b"hello")
    assert await payload(rig.link, 5) == b"hello"
    await peer.come_back(highest=0)
    await rig.link.expect(START)
    assert await payload(rig.link, 5) == b"hello"
    await rig.check(client, Message(STREAM_START, *START_IDS, b"", b""))


START_IDS = (SSH.stream, SSH.service, SSH.number)


@scenario("L4", ours_alone=True)
async def test_l4_nothing_is_opened_twice(lab: Lab) -> None:
    """A start that comes again goes on; one of a connection that has ended is refused."""
    rig, peer = await destination_and_peer(lab)
    app = await rig.open()
    await app.send(b"hello")
    assert await payload(rig.link, 5) == b"hello"
    await peer.come_back({SSH: Progress(5)}, highest=1)
    await rig.link.send(START)
    await rig.check(app)
    await rig.link.send(message(CONNECTION_RESET, 1, "SSH1", 1))
    await app.rest()
    await peer.come_back(highest=1)
    assert peer.heard.places == {}
    assert peer.heard.highest == {"SSH1": 1}
    await rig.link.send(START)
    await rig.link.expect(message(CONNECTION_RESET, 1, "SSH1", 1))
    await rig.link.send(MORE)
    again = await rig.applications["SSH1"].accept()
    await again.send(b"new")
    assert await payload(rig.link, 3, SECOND) == b"new"


@scenario("L5", ours_alone=True)
async def test_l5_ended_at_the_peer_while_down(lab: Lab) -> None:
    """What the peer has not got any more is reset; what it has goes on."""
    rig, peer = await source_and_peer(lab)
    one, _ = await rig.connect()
    two, _ = await rig.connect()
    await rig.link.send(*data(b"last", 1, "SSH1", 1))
    await one.expect(b"last")
    await peer.come_back({SECOND: Progress(0)}, highest=2)
    await one.expect_cut(b"", told=True)
    await rig.link.expect(message(STREAM_START, 1, "SSH1", 2))
    await rig.link.send(*data(b"down", 1, "SSH1", 2))
    await two.expect(b"down")


@scenario("L5", ours_alone=True)
async def test_l5_ended_here_while_down(lab: Lab) -> None:
    """A client that is gone is told of once both ends have agreed."""
    rig, peer = await source_and_peer(lab)
    client, _ = await rig.connect()
    rig.link.drop()
    await rig.proxy.said("trying again")
    client.reset()
    await rig.reconnect()
    await peer.agree({SSH: Progress(0)}, highest=1)
    await rig.link.expect(START)
    assert names(await rig.link.find(CONNECTION_RESET)) == SSH


# -- acknowledgements and windows ----------------------------------------------------------------


@scenario("L6", ours_alone=True)
async def test_l6_a_sender_keeps_to_its_limit(lab: Lab) -> None:
    """256 KiB before the first acknowledgement, then up to the limit, to the byte."""
    rig, _ = await source_and_peer(lab)
    client, _ = await rig.connect()
    given = content(1_000_000)
    lab.background(client.send(given))
    assert await payload(rig.link, FIRST_LIMIT) == given[:FIRST_LIMIT]
    assert await quiet(rig.link, DATA) == []
    await rig.link.send(ack(SSH, Progress(FIRST_LIMIT, FIRST_LIMIT + 100_001)))
    assert await payload(rig.link, 100_001) == given[FIRST_LIMIT : FIRST_LIMIT + 100_001]
    assert await quiet(rig.link, DATA) == []
    await rig.link.send(ack(SSH, Progress(FIRST_LIMIT, 1_000_000)))
    assert await payload(rig.link, 1_000_000 - FIRST_LIMIT - 100_001) == given[-637_855:]


@scenario("L6", ours_alone=True)
async def test_l6_a_receiver_acknowledges_half_windows(lab: Lab) -> None:
    """Or earlier; the window doubles up to 8 MiB for an application that keeps up."""
    rig, _ = await destination_and_peer(lab)
    app = await rig.open()
    received, window, part = 0, FIRST_LIMIT, bytes(32_768)
    told = Progress(0)
    while window < LARGEST:
        while received < told.received + window // 2:
            await rig.link.send(*data(part, 1, "SSH1", 1))
            await app.expect(part)
            received += len(part)
        before, told = told, read_ack(await rig.link.find(CONNECTION_ACK))
        assert before.received < told.received <= received
        assert told.limit - told.received in (window, 2 * window), f"{told} behind {before}"
        window = told.limit - told.received
    assert window == LARGEST


@scenario("L6", ours_alone=True)
async def test_l6_a_reader_that_stops(lab: Lab) -> None:
    """The limit follows what the application takes; another connection goes on."""
    rig, _ = await destination_and_peer(lab, buffer=4096)
    app = await rig.open()
    other = await rig.open(connection=2)
    sent, told = 0, Progress(0)
    while sent < told.limit:
        part = bytes(min(32_768, told.limit - sent))
        await rig.link.send(*data(part, 1, "SSH1", 1))
        sent += len(part)
        for received in await quiet(rig.link, CONNECTION_ACK):
            told = read_ack(received)
    assert sent <= 2 * LARGEST, f"{sent} bytes for an application that reads nothing"
    await rig.check(other, connection=2)
    lab.background(app.expect(bytes(sent)))
    while told.limit <= sent:
        told = read_ack(await rig.link.find(CONNECTION_ACK))


# -- ends of one direction ---------------------------------------------------------------------


@scenario("L7", ours_alone=True)
async def test_l7_half_closed_client(lab: Lab) -> None:
    """Its end goes at its offset, the answer comes as late as it likes, and no reset is sent."""
    rig, _ = await source_and_peer(lab)
    client, _ = await rig.connect()
    await client.send(b"question")
    client.half_close()
    assert await payload(rig.link, 8) == b"question"
    await rig.link.expect(fin(SSH, 8))
    await rig.link.send(*data(b"answer", 1, "SSH1", 1), ack(SSH, Progress(8, 9, True)))
    await client.expect(b"answer")
    await rig.link.send(fin(SSH, 6))
    assert read_ack(await rig.link.find(CONNECTION_ACK)).fin_seen
    await client.expect_eof()
    assert await quiet(rig.link, CONNECTION_RESET, STREAM_RESET) == []


@scenario("L7", ours_alone=True)
async def test_l7_half_closed_by_the_peer(lab: Lab) -> None:
    """An application that answers after end of file has somebody to answer."""
    rig, _ = await destination_and_peer(lab)
    app = await rig.open()
    await rig.link.send(*data(b"question", 1, "SSH1", 1), fin(SSH, 8))
    await app.expect_eof(b"question")
    told = read_ack(await rig.link.find(CONNECTION_ACK))
    assert (told.received, told.fin_seen) == (8, True)
    await app.send(b"answer")
    app.close()
    assert await payload(rig.link, 6) == b"answer"
    await rig.link.expect(fin(SSH, 6))
    await rig.link.send(ack(SSH, Progress(6, 7, True)))
    assert await quiet(rig.link, CONNECTION_RESET, STREAM_RESET) == []


@scenario("L7", ours_alone=True)
async def test_l7_an_end_survives_a_cut(lab: Lab) -> None:
    """It is told again, behind the bytes that were lost, and not to one that has seen it."""
    rig, peer = await source_and_peer(lab)
    client, _ = await rig.connect()
    await sent(rig.link, client, b"que", b"stion")
    client.half_close()
    await rig.link.find(CONNECTION_FIN)
    await peer.come_back({SSH: Progress(3)}, highest=1)
    await rig.link.expect(START)
    assert await payload(rig.link, 5) == b"stion"
    await rig.link.expect(fin(SSH, 8))
    await peer.come_back({SSH: Progress(8, 9, True)}, highest=1)
    await rig.link.expect(START)
    assert await quiet(rig.link, DATA, CONNECTION_FIN) == []
    await rig.link.send(*data(b"answer", 1, "SSH1", 1), fin(SSH, 6))
    await client.expect_eof(b"answer")


@scenario("L7", ours_alone=True)
async def test_l7_over_while_down(lab: Lab) -> None:
    """Both have ended and only the last acknowledgement was lost: that is an end in order."""
    rig, peer = await source_and_peer(lab)
    client, _ = await rig.connect()
    await rig.link.send(*data(b"all", 1, "SSH1", 1), fin(SSH, 3))
    await client.expect_eof(b"all")
    client.half_close()
    await rig.link.find(CONNECTION_FIN)
    await peer.come_back(highest=1)
    assert await quiet(rig.link, STREAM_START, CONNECTION_RESET) == []
    await rig.connect()


# -- the other side comes and goes ---------------------------------------------------------------


@scenario("L8", ours_alone=True)
async def test_l8_the_peer_leaves_and_comes_back(lab: Lab) -> None:
    """The link stays; a new incarnation begins, and what is of the old one is dropped."""
    rig, peer = await source_and_peer(lab)
    client, _ = await rig.connect()
    await sent(rig.link, client, b"he", b"llo")
    before = peer.heard.nonce
    await rig.link.send(left(), *data(b"of the old one", 1, "SSH1", 1))
    await rig.link.settled()
    await client.send(b" and more")
    assert await quiet(rig.link, DATA, SESSION_OFFER, STREAM_START) == []
    peer.nonce += 1
    await rig.link.send(joined(), peer.offer({SSH: Progress(2)}, 1).raw)
    offer = await peer.hear()
    assert offer == Offer(
        offer.sender, before + 1, peer.id, peer.nonce, {"SSH1": 1}, {SSH: Progress(0)}
    )
    await rig.link.send(peer.offer({SSH: Progress(2)}, 1).raw)
    await rig.link.expect(START)
    assert await payload(rig.link, 12) == b"llo and more"
    await rig.link.send(*data(b"of the new one", 1, "SSH1", 1))
    await client.expect(b"of the new one")
    assert rig.stage.connections == 1


@scenario("L9", ours_alone=True)
async def test_l9_a_foreign_peer_comes_while_suspended(lab: Lab) -> None:
    """All that waits is reset, and the newcomer is spoken to as ever."""
    for capabilities in ("", "flow, pings"):
        rig, _ = await source_and_peer(lab)
        client, _ = await rig.connect()
        await rig.link.send(left())
        await client.send(b"hello")
        await rig.link.settled()
        before = len(everything(rig.link))
        await rig.link.send(joined(capabilities))
        await client.expect_cut(b"", told=True)
        client, start = await rig.connect()
        await rig.check(client, start)
        client.half_close()
        await rig.link.find(CONNECTION_RESET)
        await rig.link.settled()
        assert not OURS & {each.kind for each in everything(rig.link)[before:]}


@scenario("L9", ours_alone=True)
async def test_l9_a_foreign_source_comes_while_suspended(lab: Lab) -> None:
    rig, _ = await destination_and_peer(lab)
    app = await rig.open()
    await rig.link.send(left())
    await rig.link.settled()
    before = len(everything(rig.link))
    await rig.link.send(joined(""))
    await app.expect_cut(b"", told=True)
    app = await rig.open(stream=7, connection=1)
    await rig.check(app, stream=7)
    app.close()
    await rig.link.find(STREAM_RESET, CONNECTION_RESET)
    await rig.link.settled()
    assert not OURS & {each.kind for each in everything(rig.link)[before:]}


@scenario("L10", ours_alone=True)
async def test_l10_the_peer_was_restarted(lab: Lab) -> None:
    """Another session id: what had begun is reset, and new connections work."""
    rig, _ = await source_and_peer(lab)
    client, _ = await rig.connect()
    await rig.link.send(left())
    again = Peer(rig)
    again.nonce = 1
    await rig.link.send(joined(), Offer(again.id, 1, highest={"SSH1": 0}).raw)
    await client.expect_cut(b"", told=True)
    offer = await again.find()
    assert offer.places == {}
    assert (offer.peer, offer.peer_nonce) == (again.id, 1)
    await rig.link.send(again.offer().raw)
    client, start = await rig.connect()
    assert start.raw == message(STREAM_START, start.stream, "SSH1", 2)
    await rig.check(client, start)


@scenario("L10", ours_alone=True)
async def test_l10_the_source_was_restarted(lab: Lab) -> None:
    """Its ids begin again, and are not taken for those of the one before."""
    rig, _ = await destination_and_peer(lab)
    app = await rig.open()
    rig.link.drop()
    await rig.reconnect()
    again = Peer(rig)
    await again.agree()
    await app.expect_cut(b"", told=True)
    assert again.heard.places == {}
    app = await rig.open()
    await rig.check(app)


@scenario("L11", ours_alone=True)
async def test_l11_the_tunnel_is_closed(lab: Lab) -> None:
    """Close 1000 ends everything, as it always does."""
    rig, _ = await source_and_peer(lab)
    client, _ = await rig.connect()
    await rig.link.send(*data(b"last", 1, "SSH1", 1))
    await rig.link.close(1000, "the tunnel is closed")
    await client.expect_cut(b"last", told=True)
    assert await rig.proxy.ended() == 0


@scenario("L11", ours_alone=True)
async def test_l11_other_closes_are_cuts(lab: Lab) -> None:
    rig, peer = await source_and_peer(lab)
    client, start = await rig.connect()
    for code in (1001, 1011, 1012):
        await rig.link.close(code, "come back")
        await rig.reconnect()
        await peer.agree({SSH: Progress(0)}, highest=1)
        await rig.link.expect(START)
        await rig.link.send(*data(b"still there", 1, "SSH1", 1))
        await client.expect(b"still there")
    await rig.link.send(message(CONNECTION_RESET, *start[1:4]))
    await client.expect_cut(b"", told=True)


# -- time -----------------------------------------------------------------------------------------


@scenario("L16", ours_alone=True)
async def test_l16_nobody_comes_in_time(lab: Lab) -> None:
    """What waits is reset, with or without a link; what comes later is served."""
    rig, peer = await source_and_peer(lab, ours=("--resume-timeout", "1"))
    client, _ = await rig.connect()
    await rig.link.send(*data(b"last", 1, "SSH1", 1), left())
    await client.expect_cut(b"last", told=True)
    await rig.proxy.said("did not come back in time")
    peer.nonce += 1
    await rig.link.send(joined(), peer.offer().raw)
    await peer.find()
    assert peer.heard.places == {}
    await rig.link.send(peer.offer(highest=1).raw)
    client, start = await rig.connect()
    assert start.connection == 2
    await rig.check(client, start)
    rig.link.drop()
    rig.stage.stop_listening()
    await client.expect_cut(b"", told=True)


@scenario("L16", ours_alone=True)
async def test_l16_a_destination_waits_no_longer(lab: Lab) -> None:
    rig, peer = await destination_and_peer(lab, ours=("--resume-timeout", "1"))
    app = await rig.open()
    rig.link.drop()
    await app.expect_cut(b"", told=True)
    await rig.reconnect()
    await peer.agree({SSH: Progress(0)}, highest=1)
    assert peer.heard.places == {}
    await rig.link.send(START)
    await rig.link.expect(message(CONNECTION_RESET, 1, "SSH1", 1))
    await rig.check(await rig.open(connection=2), connection=2)


@scenario("L16", ours_alone=True)
async def test_l16_without_it_nothing_is_offered(lab: Lab) -> None:
    """Nor where the peer was said to be an older one: its connections have no ids."""
    for arguments in (("--resume-timeout", "0"), ("-y", "V2"), ("-y", "V1")):
        stage = lab.stage()
        lab.proxy("-e", stage.endpoint, "-s", f"SSH1={free_port()}", *arguments)
        request = (await stage.asked()).request
        assert request["X-Tailrace-Capabilities"] == "flow, pings", arguments


# -- peers that break the rules -----------------------------------------------------------------


@scenario("L12", ours_alone=True)
async def test_l12_what_the_books_contradict_ends_one_connection(lab: Lab) -> None:
    rig, _ = await source_and_peer(lab)
    healthy, start = await rig.connect()
    wrong = {
        "acknowledges what was not sent": lambda c: [ack(c, Progress(1))],
        "acknowledges an end that was not sent": lambda c: [ack(c, Progress(0, 0, True))],
        "acknowledges more than it allows": lambda c: [ack(c, Progress(2, 1))],
        "an acknowledgement of no length": lambda c: [
            message(CONNECTION_ACK, c.stream, c.service, c.number, b"", True)
        ],
        "an end at another offset": lambda c: [fin(c, 1)],
        "an end that comes twice": lambda c: [fin(c, 0), fin(c, 0)],
        "an end of no length": lambda c: [
            message(CONNECTION_FIN, c.stream, c.service, c.number, b"x", True)
        ],
        "data behind the end": lambda c: [
            fin(c, 0),
            *data(b"x", c.stream, c.service, c.number),
        ],
    }
    for what, pieces in wrong.items():
        client, started = await rig.connect()
        await rig.link.send(*pieces(names(started)))
        reset = await rig.link.find(CONNECTION_RESET)
        assert names(reset) == names(started), f"{what}: {reset}"
        assert reset.payload, f"{what}: a reset that does not say why"
        await client.rest()
    await rig.check(healthy, start)
    assert rig.stage.connections == 1


@scenario("L12", ours_alone=True)
async def test_l12_more_than_was_allowed(lab: Lab) -> None:
    """Nothing is taken by an application that cannot be reached, so not a byte more is allowed."""
    stage = lab.stage()
    mapping = f"SSH1=127.0.0.1:{lab.black_hole()}"
    proxy = lab.proxy("-e", stage.endpoint, "-d", mapping, settings=QUICK)
    rig = Destination(lab, stage, proxy, await stage.tunnel("SSH1", **ANSWER), {}, ANSWER)
    await Peer(rig).agree()
    await rig.link.send(START, *data(bytes(FIRST_LIMIT), 1, "SSH1", 1))
    acks = [read_ack(each) for each in await quiet(rig.link, CONNECTION_ACK, CONNECTION_RESET)]
    assert {told.limit for told in acks} == {FIRST_LIMIT}
    await rig.link.send(*data(b"x", 1, "SSH1", 1))
    reset = await rig.link.find(CONNECTION_RESET)
    assert reset.payload == b"the peer broke the protocol"
    await rig.link.settled()


@scenario("L12", ours_alone=True)
async def test_l12_an_offer_that_the_books_contradict(lab: Lab) -> None:
    """Of more than was sent, and of less than was acknowledged."""
    rig, peer = await source_and_peer(lab)
    for wrong in (11, 2):
        healthy, started = await rig.connect()
        client, broken = await rig.connect()
        await sent(rig.link, client, b"0123", b"456789", of=names(broken))
        await rig.link.send(ack(names(broken), Progress(4)), left())
        peer.nonce += 1
        await rig.link.send(joined(), peer.offer(highest=broken.connection).raw)
        await peer.find()
        places = {names(started): Progress(0), names(broken): Progress(wrong)}
        await rig.link.send(peer.offer(places, broken.connection).raw)
        assert names(await rig.link.find(STREAM_START)) == names(started)
        await client.rest()
        await rig.check(healthy, started)
        healthy.reset()
        assert names(await rig.link.find(CONNECTION_RESET)) == names(started)
    assert rig.stage.connections == 1


@scenario("L12", ours_alone=True)
async def test_l12_a_start_without_an_id(lab: Lab) -> None:
    rig, _ = await destination_and_peer(lab)
    await rig.link.send(message(STREAM_START, 1, "SSH1"))
    await rig.link.expect(message(CONNECTION_RESET, 1, "SSH1"))
    await rig.check(await rig.open())


@scenario("L12", ours_alone=True)
async def test_l12_a_broken_offer_ends_the_link(lab: Lab) -> None:
    rig, _ = await source_and_peer(lab)
    for payload in (b"", b"\x01", Offer(NOBODY, 1).payload, Offer(b"x" * 16, 0).payload):
        client, _ = await rig.connect()
        await rig.link.send(message(SESSION_OFFER, payload=payload, ignorable=True))
        assert await rig.link.over() == 1002, payload
        await client.expect_cut(b"", told=True)
        await rig.reconnect()
        await Peer(rig).agree()


@scenario("L12", ours_alone=True)
async def test_l12_offers_again_and_again(lab: Lab) -> None:
    """The same one changes nothing; a new incarnation each time is an agreement each time."""
    rig, peer = await source_and_peer(lab)
    client, _ = await rig.connect()
    await rig.link.send(*[peer.offer({SSH: Progress(0)}, 1).raw] * 1000)
    assert await quiet(rig.link, SESSION_OFFER, STREAM_START) == []
    for _ in range(500):
        peer.nonce += 1
        await rig.link.send(peer.offer({SSH: Progress(0)}, 1).raw)
    while (await peer.find()).peer_nonce != peer.nonce:
        pass
    await rig.link.send(*data(b"still there", 1, "SSH1", 1))
    await client.expect(b"still there")
    assert rig.stage.connections == 1


@scenario("L12", ours_alone=True)
async def test_l12_an_offer_that_is_not_ignorable(lab: Lab) -> None:
    rig, peer = await destination_and_peer(lab)
    await rig.link.send(message(SESSION_OFFER, payload=peer.offer().payload))
    assert await rig.link.over() == 1002
