"""The control API behind its signatures: operations on a store of their own."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

from hypothesis import strategies as st

from tailrace.common.secret import Secret
from tailrace.mqtt.topics import AWS_TOPICS
from tailrace.service.api.dispatch import perform
from tailrace.service.api.errors import ApiError
from tailrace.service.api.model import OPERATIONS
from tailrace.service.api.validation import read_parameters
from tailrace.service.control import ControlPlane
from tailrace.service.identity.policy import AccessKey, Policy
from tailrace.service.limits import DEFAULT
from tailrace.service.notify.announcer import Announcer
from tailrace.service.notify.mailbox import Mailbox
from tailrace.service.relay.switchboard import Switchboard
from tailrace.service.tunnels.queries import TunnelQueries
from tailrace.service.tunnels.rules import RandomIds, Tunnels
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.unstored import Unstored

from ..mutate import vary_bytes, vary_item
from ..target import Target
from .api import values_of

__all__ = ["OPERATION_CALLS"]

_ARN: Final = "arn:aws:iot:r:a:tunnel/"
_TUNNELS: Final = ("t1", "t2", "t3", "none")
_TOKENS: Final = ("MQ==", "Mg==", "LTE=", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "A", "====", "_-")


class _CountedIds(RandomIds):
    """Ids that inputs can name."""

    def __init__(self) -> None:
        self._count = 0

    def tunnel_id(self) -> str:
        self._count += 1
        return f"t{self._count}"


@dataclass(frozen=True, slots=True)
class _Call:
    operation: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Calls:
    """Some calls of the bearer of one key."""

    policy: Policy
    calls: tuple[_Call, ...]


@st.composite
def _call(draw: st.DrawFn) -> _Call:
    operation = draw(st.sampled_from(["OpenTunnel", *sorted(OPERATIONS)]))
    value: Any = draw(values_of(OPERATIONS[operation].input))
    if isinstance(value, dict):
        # Made-up ids name nothing; those of tunnels that exist lead further.
        named = {
            "tunnelId": draw(st.sampled_from(_TUNNELS)),
            "resourceArn": _ARN + draw(st.sampled_from(_TUNNELS)),
            "clientMode": draw(st.sampled_from(["SOURCE", "DESTINATION", "ALL"])),
            "nextToken": draw(st.sampled_from(_TOKENS)),
        }
        value |= {
            name: text
            for name, text in named.items()
            if name in OPERATIONS[operation].input.members
            and (name != "nextToken" or draw(st.booleans()))
        }
    return _Call(operation, json.dumps(value).encode())


_POLICIES: Final = st.sampled_from(
    [Policy(), Policy(read_only=True), Policy(things=("abc",)), Policy(operations=("OpenTunnel",))]
)


@cache
def _empty() -> str:
    """Return the statements that make an empty store."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "store"
        SqliteStore.open(path).close()
        with closing(sqlite3.connect(path)) as connection:
            return "\n".join(connection.iterdump())


@contextmanager
def _control() -> Iterator[ControlPlane]:
    # In memory: the disk takes longer than everything else together.
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(_empty())
        connection.execute("PRAGMA foreign_keys = ON")
        store = SqliteStore(connection)
        ids = _CountedIds()
        unstored = Unstored()
        queries = TunnelQueries(store, unstored, lambda: 1.0, "r", "a")
        tunnels = Tunnels(store, unstored, ids, DEFAULT)
        announcer = Announcer((), "r", AWS_TOPICS)
        yield ControlPlane(
            tunnels, queries, Switchboard(), ids, lambda: 1.0, announcer, Mailbox(), lambda: None
        )


def _check(value: _Calls) -> None:
    key = AccessKey("AKID", Secret("secret"), policy=value.policy)
    refused: ApiError | None = None
    with _control() as control, asyncio.Runner() as runner:
        for call in value.calls:
            try:
                parameters = read_parameters(call.body, OPERATIONS[call.operation].input)
                document = runner.run(perform(control, call.operation, parameters, key))
            except ApiError as error:
                assert 400 <= error.status < 500
                refused = error
            else:
                json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    if refused is not None:
        raise refused


def _vary_call(call: _Call, random: Random) -> _Call:
    return _Call(call.operation, vary_bytes(call.body, random))


def _vary(value: _Calls, random: Random) -> _Calls:
    return _Calls(value.policy, vary_item(value.calls, _vary_call, random))


_OPEN: Final = _Call(
    "OpenTunnel",
    b'{"tags": [{"key": "k", "value": "v"}],'
    b' "destinationConfig": {"services": ["SSH1", "SSH1"], "thingName": "abc"}}',
)
_ON_IT: Final = (
    _Call("DescribeTunnel", b'{"tunnelId": "t1"}'),
    _Call("RotateTunnelAccessToken", b'{"tunnelId": "t1", "clientMode": "ALL"}'),
    _Call("ListTunnels", b'{"thingName": "abc", "maxResults": 1}'),
    _Call("TagResource", f'{{"resourceArn": "{_ARN}t1", "tags": []}}'.encode()),
    _Call("ListTagsForResource", f'{{"resourceArn": "{_ARN}t1"}}'.encode()),
    _Call("UntagResource", f'{{"resourceArn": "{_ARN}t1", "tagKeys": ["k"]}}'.encode()),
    _Call("CloseTunnel", b'{"tunnelId": "t1", "delete": true}'),
)

OPERATION_CALLS: Final = Target(
    "operations",
    "calls of the control API one after the other, behind the signature",
    st.builds(_Calls, _POLICIES, st.lists(_call(), max_size=6).map(tuple)),
    _check,
    (ApiError,),
    tuple(_Calls(Policy(), (_OPEN, _OPEN, call)) for call in _ON_IT),
    _vary,
)
