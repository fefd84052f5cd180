"""Everybody else sees the bytes they have always seen: whole conversations, as recorded."""

from __future__ import annotations

from conformance.conversations import Player, load
from conformance.lab import Lab
from conformance.laboratory import scenario

AWS = "AWS "
NO_OFFER = "a service that answers no offer"
FLOW = "a service with flow messages"


async def _play(lab: Lab, about: str) -> None:
    """Play those conversations whose name says that they are about something."""
    found = [each for each in load() if each["name"].startswith(about)]
    assert found, f"no conversation is about {about}"
    for conversation in found:
        player = Player.start(lab, conversation)
        await player.play(conversation)


@scenario("L15", ours_alone=True)
async def test_l15_aws(lab: Lab) -> None:
    """Told by its name, behind a web proxy: the upgrade requests, too."""
    await _play(lab, AWS)


@scenario("L15", ours_alone=True)
async def test_l15_a_service_that_answers_no_offer(lab: Lab) -> None:
    await _play(lab, NO_OFFER)


@scenario("L15", ours_alone=True)
async def test_l15_a_service_with_flow_messages(lab: Lab) -> None:
    """From before offers, with a peer that knows flow messages, and one that does not."""
    await _play(lab, FLOW)


def test_all_are_played() -> None:
    names = [each["name"] for each in load()]
    assert all(name.startswith((AWS, NO_OFFER, FLOW)) for name in names), names
