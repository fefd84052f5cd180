"""The compiled extension beside Python: the same traffic goes both ways."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Final

from hypothesis import strategies as st

from support.network.frames import BINARY, frame
from support.service.memory_links import Bytes, Join, Step, Turn, run_steps
from support.service.relay_steps import relay_steps
from support.tunnel.memory_ends import play
from tailrace.wire import DataHeader, Message, MessageType, Side, encode_delimited

from ..mutate import vary_bytes
from ..target import Target

__all__ = ["LINK_GATE", "RELAY_GATE"]


def _check_relay_gate(steps: tuple[Step, ...]) -> None:
    assert run_steps(steps, compiled=True) == run_steps(steps, compiled=False)


def _vary_steps(steps: tuple[Step, ...], random: Random) -> tuple[Step, ...]:
    """Return steps of which one is lost, comes twice, later, or with other bytes."""
    varied = list(steps)
    at = random.randrange(len(varied))
    step = varied.pop(at)
    match random.randrange(4):
        case 0:
            varied[at:at] = [step, step]
        case 1:
            varied.insert(random.randrange(len(varied) + 1), step)
        case 2 if isinstance(step, Bytes):
            varied.insert(at, replace(step, data=vary_bytes(step.data, random)))
    return tuple(varied) or steps


def _frame(message: bytes) -> bytes:
    return frame(BINARY, message, masked=True)


def _seed(*sizes: int) -> tuple[Step, ...]:
    """Return the steps of one connection that sends messages of these sizes."""
    start = encode_delimited(Message(MessageType.STREAM_START, 1, "A", 1))
    header = DataHeader(1, "A", 1)
    messages = [header.build(size) + bytes(size) for size in (1, 2, 3, *sizes)]
    steps: list[Step] = [Join(side) for side in Side]
    steps.append(Bytes(Side.SOURCE, _frame(start)))
    steps += [Bytes(side, _frame(message)) for message in messages for side in Side]
    return (*steps, Turn(2), Bytes(Side.SOURCE, _frame(b"".join(messages))))


def _check_link_gate(seed: int) -> None:
    assert play(seed, compiled=True) == play(seed, compiled=False)


LINK_GATE: Final = Target(
    "link-gate",
    "data between a link and local sockets, by the compiled extension and by Python",
    st.integers(0, 2**62),
    _check_link_gate,
    (),
    (0, 1, 2),
    lambda seed, random: random.getrandbits(62),
)

RELAY_GATE: Final = Target(
    "relay-gate",
    "frames from link to link of the service, by the compiled extension and by Python",
    relay_steps(),
    _check_relay_gate,
    (),
    (_seed(), _seed(1, 64_512, 200), _seed(*range(1, 40))),
    _vary_steps,
)
