"""The table of what may follow what."""

from __future__ import annotations

from tailrace.localproxy.connection_states import LIVE, NEXT, READ, ConnectionState


def test_every_state_can_be_reached_and_comes_to_its_end() -> None:
    reached, found = set(), {ConnectionState.DIALING}
    while found:
        reached |= found
        found = set().union(*(NEXT[state] for state in found)) - reached
    assert reached == NEXT.keys() == set(ConnectionState)
    assert [state for state in ConnectionState if not NEXT[state]] == [ConnectionState.CLOSED]
    assert all(ConnectionState.CLOSED in after for after in NEXT.values() if after)


def test_no_state_follows_itself() -> None:
    assert not [state for state, after in NEXT.items() if state in after]


def test_what_has_ended_in_the_tunnel_is_never_live_again() -> None:
    gone = set(ConnectionState) - LIVE - {ConnectionState.DIALING}
    assert not LIVE & set().union(*(NEXT[state] for state in gone))
    assert all(ConnectionState.FLUSHING in NEXT[state] for state in LIVE)


def test_one_that_is_read_sends_what_it_reads_or_drops_it() -> None:
    sent, dropped = READ & LIVE, READ - LIVE
    assert (sent, dropped) == ({ConnectionState.OPEN}, {ConnectionState.CLOSING})


def test_a_live_one_may_send_again_unless_it_has_ended_its_half() -> None:
    flowing = LIVE - {ConnectionState.HALF_CLOSED}
    assert flowing < LIVE
    assert all(NEXT[state] & flowing for state in flowing)
    assert not NEXT[ConnectionState.HALF_CLOSED] & flowing
