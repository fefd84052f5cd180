"""The other end of a proxy's tunnel, where both go on over lost links, and the service between."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from conformance.lab import Lab
from conformance.messages import (
    PEER_JOINED,
    PEER_LEFT,
    SESSION_OFFER,
    message,
)
from conformance.payloads import Connection, Offer, Progress
from conformance.rigs import Destination, Source, destination, source

__all__ = ["ANSWER", "Peer", "destination_and_peer", "joined", "left", "source_and_peer"]

ANSWER = {"more": "channel-id: channel-7\r\nX-Tailrace-Capabilities: flow, resume\r\n"}
"""What a service answers that passes the messages on."""

Places = Mapping[Connection, Progress]


def joined(capabilities: str = "flow, pings, resume") -> bytes:
    """Return what the service says when the other side connects."""
    return message(PEER_JOINED, payload=capabilities.encode(), ignorable=True)


def left() -> bytes:
    """Return what the service says when the other side is gone."""
    return message(PEER_LEFT, ignorable=True)


class Peer:
    """What the script says for the other end."""

    def __init__(self, rig: Source | Destination) -> None:
        self.rig = rig
        self.id = os.urandom(16)
        self.nonce = 0
        self.heard: Offer
        """The proxy's latest offer."""

    async def hear(self) -> Offer:
        """Return the next message, which has to be an offer of the proxy."""
        self.heard = Offer.read(await self.rig.link.next())
        return self.heard

    async def find(self) -> Offer:
        """Return the proxy's next offer, dropping what comes before."""
        self.heard = Offer.read(await self.rig.link.find(SESSION_OFFER))
        return self.heard

    def offer(self, places: Places | None = None, highest: int = 0, **changes: Any) -> Offer:
        """Return an offer in answer to the latest one."""
        given = {
            "sender": self.id,
            "nonce": self.nonce,
            "peer": self.heard.sender,
            "peer_nonce": self.heard.nonce,
            "highest": dict.fromkeys(self.heard.highest or ["SSH1"], highest),
            "places": places or {},
        }
        return Offer(**given | changes)

    async def agree(self, places: Places | None = None, highest: int = 0) -> Offer:
        """Come to an agreement on a new link, whose first message is the proxy's offer.

        Returns the proxy's second offer: it names this end.
        """
        self.nonce += 1
        await self.hear()
        await self.rig.link.send(joined(), self.offer(places, highest).raw)
        return await self.hear()

    async def come_back(self, places: Places | None = None, highest: int = 0) -> None:
        """Cut the proxy's link, and agree on the next one."""
        self.rig.link.drop()
        await self.rig.reconnect()
        await self.agree(places, highest)


async def source_and_peer(lab: Lab, *ids: str, **options: Any) -> tuple[Source, Peer]:
    """Start a source that has agreed with its peer on nothing yet."""
    rig = await source(lab, *ids, answer=ANSWER, **options)
    peer = Peer(rig)
    await peer.agree()
    return rig, peer


async def destination_and_peer(lab: Lab, *ids: str, **options: Any) -> tuple[Destination, Peer]:
    """Start a destination that has agreed with its peer on nothing yet."""
    rig = await destination(lab, *ids, answer=ANSWER, **options)
    peer = Peer(rig)
    await peer.agree()
    return rig, peer
