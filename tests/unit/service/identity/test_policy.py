"""Keys and policies."""

import json
from typing import Any

import pytest

from tailrace.common.secret import Secret
from tailrace.service.identity.policy import EVERYTHING, AccessKey, Policy
from tailrace.service.limits import Quotas

FULL: dict[str, Any] = {
    "access_key_id": "AK",
    "secret_access_key": "sekret",
    "session_token": "toksekret",
    "expires_at": 5.0,
    "name": "n",
    "created_at": 1.0,
    "operations": ["OpenTunnel"],
    "things": ["a*"],
    "read_only": True,
    "max_open_tunnels": 5,
    "max_stored_bytes": 0,
}


WRITES = {"CloseTunnel": True, "OpenTunnel": True, "DescribeTunnel": False, "ListTunnels": False}


def allowed(policy: Policy) -> set[str]:
    return {name for name, writes in WRITES.items() if policy.allows(name, writes=writes)}


def test_operations() -> None:
    assert allowed(EVERYTHING) == set(WRITES)
    assert allowed(Policy(read_only=True)) == {"DescribeTunnel", "ListTunnels"}
    some = ("OpenTunnel", "ListTunnels")
    assert allowed(Policy(operations=some)) == set(some)
    assert allowed(Policy(operations=some, read_only=True)) == {"ListTunnels"}
    assert allowed(Policy(operations=())) == set()


@pytest.mark.parametrize(
    ("patterns", "thing", "allowed"),
    [
        (None, None, True),
        (None, "x", True),
        ((), "x", False),
        (("*",), None, False),
        (("*",), "x", True),
        (("plant-?-*",), "plant-7-pump", True),
        (("plant-?-*",), "plant-77-pump", False),
        (("a", "b"), "b", True),
        (("a",), "A", False),
        (("a",), "ab", False),
        (("[ab]",), "a", False),
        (("[ab]",), "[ab]", True),
    ],
)
def test_things(patterns: tuple[str, ...] | None, thing: str | None, allowed: bool) -> None:
    assert Policy(things=patterns).allows_thing(thing) is allowed


def test_what_is_unlimited() -> None:
    assert EVERYTHING.is_unlimited
    for policy in (Policy(operations=()), Policy(things=()), Policy(read_only=True)):
        assert not policy.is_unlimited


def test_expiry() -> None:
    key = AccessKey("AK", Secret("s"), expires_at=10.0)
    assert not key.has_expired(9.9)
    assert key.has_expired(10.0)
    assert not AccessKey("AK", Secret("s")).has_expired(1e12)


def test_what_is_privileged() -> None:
    assert AccessKey("AK", Secret("s")).is_privileged
    assert not AccessKey("AK", Secret("s"), expires_at=10.0).is_privileged
    assert not AccessKey("AK", Secret("s"), policy=Policy(read_only=True)).is_privileged


def test_documents() -> None:
    key = AccessKey.from_document(FULL)
    assert key.to_document() == FULL
    assert key == AccessKey(
        "AK",
        Secret("sekret"),
        Secret("toksekret"),
        5.0,
        "n",
        1.0,
        Policy(("OpenTunnel",), ("a*",), True),
        Quotas(open_tunnels=5, stored_bytes=0),
    )
    assert "sekret" not in repr(key)
    least = AccessKey.from_document({"access_key_id": "AK", "secret_access_key": "s"})
    assert least == AccessKey("AK", Secret("s"))
    assert AccessKey.from_document(least.to_document()) == least


@pytest.mark.parametrize(
    "change",
    [
        {"access_key_id": None},
        {"secret_access_key": 5},
        {"session_token": ["toksekret"]},
        {"expires_at": "soon"},
        {"name": 5},
        {"operations": "OpenTunnel"},
        {"things": [5]},
        {"max_open_tunnels": "5"},
        {"max_open_tunnels": -1},
        {"max_opened_per_hour": 1.5},
        {"max_stored_bytes": True},
    ],
)
def test_what_is_no_key(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not an access key") as caught:
        AccessKey.from_document(FULL | change)
    assert "sekret" not in repr(caught.value)
    assert "sekret" in json.dumps(FULL)


@pytest.mark.parametrize("missing", ["access_key_id", "secret_access_key"])
def test_what_a_key_needs(missing: str) -> None:
    with pytest.raises(ValueError, match="not an access key"):
        AccessKey.from_document({name: FULL[name] for name in FULL if name != missing})


def test_a_strange_read_only_is_taken_for_the_stricter() -> None:
    assert AccessKey.from_document(FULL | {"read_only": "no"}).policy.read_only
