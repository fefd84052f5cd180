"""The blocking twin of the library offers what the library does, with the same arguments."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest

import tailrace

TWINS = [
    "Client",
    "DestinationTunnel",
    "Service",
    "SourceTunnel",
    "Tunnel",
    "TunnelListener",
]

WITHOUT = {
    # In a block, the end closes its connection; without one, each call does.
    "Client.aclose",
}
"""What has no twin."""

MORE = {
    # A call that blocks can be bounded in no other way.
    "wait_closed": {"timeout"},
    "open_connection": {"timeout"},
    "open_socket": {"timeout"},
    "destination": {"max_threads"},
}
"""Method -> parameters that only the twin has, all of which are optional."""

OTHER_TYPES = {("destination", "services")}
"""Parameters that differ as calls that block and coroutines do."""


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def differences(original: object, twin: object) -> list[str]:
    """Return one line for each parameter in which a method differs from its original."""
    assert callable(original)
    assert callable(twin)
    name = getattr(twin, "__name__", "")
    ours, theirs = inspect.signature(original).parameters, inspect.signature(twin).parameters
    more = theirs.keys() - ours.keys()
    wrong = [f"{name}: {each} is missing" for each in ours.keys() - theirs.keys()]
    wrong += [f"{name}: {each} is new" for each in more - MORE.get(name, set())]
    for each in more & MORE.get(name, set()):
        if theirs[each].default is inspect.Parameter.empty:
            wrong.append(f"{name}: {each} has no default")
    for each in ours.keys() & theirs.keys():
        pair = [ours[each], theirs[each]]
        if (name, each) in OTHER_TYPES:
            pair = [parameter.replace(annotation="") for parameter in pair]
        if pair[0] != pair[1]:
            wrong.append(f"{name}: {pair[0]} became {pair[1]}")
    if [each for each in theirs if each in ours] != list(ours):
        wrong.append(f"{name}: the order differs")
    return wrong


@pytest.mark.parametrize("name", TWINS)
def test_each_name_has_its_twin(name: str) -> None:
    original, twin = getattr(tailrace, name), getattr(tailrace.sync, name)
    without = {each.partition(".")[2] for each in WITHOUT if each.startswith(f"{name}.")}
    assert public(twin) == public(original) - without
    assert differences(original.__init__, twin.__init__) == [] or name.endswith(
        ("Tunnel", "Listener")  # they are made by functions, which are compared
    )
    for each in public(twin):
        found, expected = getattr(twin, each), getattr(original, each)
        assert isinstance(found, property) is isinstance(expected, property), each
        assert not inspect.iscoroutinefunction(found)
        assert not inspect.isasyncgenfunction(found)
        if callable(found):
            assert differences(expected, found) == []


def test_connect_is_the_same() -> None:
    assert differences(tailrace.connect, tailrace.sync.connect) == []


def test_nothing_asynchronous_is_without_a_twin() -> None:
    def is_asynchronous(thing: object) -> bool:
        members = [getattr(thing, name) for name in dir(thing)]
        return any(
            inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
            for each in members
        )

    offered = {name: getattr(tailrace, name) for name in tailrace.__all__}
    found = {name for name, thing in offered.items() if is_asynchronous(thing)}
    # A listener is made by a call that waits, and has none itself.
    assert found == set(TWINS) - {"TunnelListener"}


def test_the_rule_can_fail() -> None:
    def original(self: object, service: str, host: str = "h") -> None: ...

    def other(self: object, host: str, name: str) -> None: ...

    def open_socket(self: object, service: str, timeout: float, host: str = "h") -> None: ...

    def swapped(self: object, host: str = "h", service: str = "") -> None: ...

    assert sorted(differences(original, other)) == [
        "other: host: 'str' = 'h' became host: 'str'",
        "other: name is new",
        "other: service is missing",
        "other: the order differs",
    ]
    assert differences(original, open_socket) == ["open_socket: timeout has no default"]
    assert len(differences(original, swapped)) == 2
    assert public(SimpleNamespace(a=1, _b=2)) == {"a"}
