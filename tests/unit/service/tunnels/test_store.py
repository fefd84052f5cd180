"""What every store does; each implementation goes through it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tailrace.service.errors import StoreFailed
from tailrace.service.tunnels.records import (
    ConnectionState,
    ConnectionStatus,
    TokenRecord,
    TunnelRecord,
    TunnelStatus,
    TunnelSummary,
    Usage,
    size_of_tags,
)
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.store import NEWEST, Things, TunnelStore
from tailrace.wire import Side


@pytest.fixture(params=[SqliteStore.open])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TunnelStore]:
    store: TunnelStore = request.param(tmp_path / "db")
    yield store
    store.close()


def tunnel(tunnel_id: str, created_at: float = 100.0, **changes: object) -> TunnelRecord:
    off = ConnectionState(ConnectionStatus.DISCONNECTED, created_at)
    record = TunnelRecord(
        tunnel_id, TunnelStatus.OPEN, created_at, created_at, created_at + 60, 1, off, off
    )
    return replace(record, **changes)


def test_unknown_things_are_none(store: TunnelStore) -> None:
    assert store.tunnel("x") is None
    assert store.token("x") is None
    assert store.next_expiry() is None
    assert store.due_tunnels(1e12, 9) == ()
    assert not store.close_tunnel("x", 1.0)
    store.delete_tunnel("x")
    store.set_tags("x", [], "k", 1.0)
    assert store.tunnel("x") is None
    assert not store.mark_token_used("x", None, 1.0)


def test_client_tokens_of_other_tunnels(store: TunnelStore) -> None:
    store.add_tunnel(tunnel("t1"), [TokenRecord("d1", "t1", Side.SOURCE, 100.0)], [])
    assert not store.client_token_elsewhere("c1", "t2", 101.0)
    store.mark_token_used("d1", "c1", 101.0)
    assert store.client_token_elsewhere("c1", "t2", 159.0)
    assert not store.client_token_elsewhere("c1", "t1", 159.0)
    assert not store.client_token_elsewhere("c2", "t2", 159.0)
    assert not store.client_token_elsewhere("c1", "t2", 160.0)
    store.close_tunnel("t1", 110.0)
    assert not store.client_token_elsewhere("c1", "t2", 111.0)
    # Nor would many of them have to be looked through.
    closed = store.token("d1")
    assert closed is not None
    assert (closed.first_used_at, closed.client_digest) == (101.0, None)


def test_a_token_is_used_first_only_once(store: TunnelStore) -> None:
    store.add_tunnel(tunnel("t"), [TokenRecord("d", "t", Side.SOURCE, 1.0)], [])
    assert store.mark_token_used("d", None, 2.0)
    assert not store.mark_token_used("d", "other", 3.0)
    used = store.token("d")
    assert used is not None
    assert (used.first_used_at, used.client_digest) == (2.0, None)


def listed(store: TunnelStore, things: Things, limit: int = 1000) -> list[str]:
    """All tunnels of some things, in pages; one that is opened meanwhile disturbs nothing."""
    found: list[str] = []
    before = NEWEST
    while before:
        page, before = store.list_tunnels(things, before, limit)
        assert len(page) <= limit
        found += [summary.tunnel_id for summary in page]
        store.add_tunnel(tunnel(f"new{len(found)}-{before}"), [], [])
    return found


def test_lists_are_newest_first_and_complete(store: TunnelStore) -> None:
    for number in range(7):
        store.add_tunnel(tunnel(f"t{number}", thing_name="odd" if number % 2 else "even"), [], [])
    assert listed(store, Things(), 3) == [f"t{number}" for number in reversed(range(7))]
    assert listed(store, Things("odd"), 2) == ["t5", "t3", "t1"]


def test_lists_hold_what_is_shown(store: TunnelStore) -> None:
    store.add_tunnel(tunnel("t", description="d", thing_name="x"), [], [])
    (summary,), _ = store.list_tunnels(Things(), NEWEST, 5)
    assert summary == TunnelSummary(
        summary.sequence, "t", TunnelStatus.OPEN, 100.0, 100.0, 160.0, "d", "x"
    )


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("pump-*",), ["pump-2", "pump-1"]),
        (("pump-1", "lamp"), ["lamp", "pump-1"]),
        (("?am*",), ["lamp"]),
        (("PUMP-*", "[a-z]*", "-"), []),
        ((), []),
        (tuple(f"thing-{number}-*" for number in range(2_000)), []),
    ],
)
def test_lists_of_things_that_match(
    store: TunnelStore, patterns: tuple[str, ...], expected: list[str]
) -> None:
    for name in ("pump-1", "lamp", None, "pump-2"):
        store.add_tunnel(tunnel(f"of-{name}", thing_name=name), [], [])
    assert listed(store, Things(patterns=patterns), 3) == [f"of-{name}" for name in expected]


def test_one_call_looks_at_a_bounded_number_of_tunnels(store: TunnelStore) -> None:
    store.add_tunnel(tunnel("first", thing_name="x"), [], [])
    for number in range(1200):
        store.add_tunnel(tunnel(f"t{number}", thing_name="y"), [], [])
    found, before = store.list_tunnels(Things(patterns=("x", "z")), NEWEST, 10)
    assert found == []
    assert before == 202
    found, before = store.list_tunnels(Things(patterns=("x", "z")), before, 10)
    assert ([summary.tunnel_id for summary in found], before) == (["first"], 0)


def test_closing_and_purging(store: TunnelStore) -> None:
    store.add_tunnel(tunnel("t"), [TokenRecord("d", "t", Side.SOURCE, 1.0)], [])
    assert store.close_tunnel("t", 150.0)
    assert not store.close_tunnel("t", 160.0)
    closed = store.tunnel("t")
    assert closed is not None
    assert (closed.status, closed.closed_at, closed.last_updated_at) == (
        TunnelStatus.CLOSED,
        150.0,
        150.0,
    )
    assert store.token("d") is not None
    assert store.purge_closed(150.0, 9) == 0
    assert store.tunnel("t") is not None
    assert store.purge_closed(150.1, 9) == 1
    assert store.tunnel("t") is None
    assert store.token("d") is None


def test_deleting_forgets_the_tokens(store: TunnelStore) -> None:
    store.add_tunnel(tunnel("t"), [TokenRecord("d", "t", Side.SOURCE, 1.0)], [])
    store.delete_tunnel("t")
    assert store.tunnel("t") is None
    assert store.token("d") is None


def test_expiry(store: TunnelStore) -> None:
    store.add_tunnel(tunnel("late", 200.0), [], [])
    store.add_tunnel(tunnel("soon", 100.0), [], [])
    assert store.next_expiry() == 160.0
    assert store.due_tunnels(159.9, 9) == ()
    assert store.due_tunnels(160.0, 9) == ("soon",)
    store.close_tunnel("soon", 160.0)
    assert store.next_expiry() == 260.0


def test_connection_states(store: TunnelStore) -> None:
    store.add_tunnel(tunnel("t"), [], [])
    on = ConnectionState(ConnectionStatus.CONNECTED, 120.0)
    store.set_connection("t", Side.DESTINATION, on)
    store.set_connection("unknown", Side.SOURCE, on)
    record = store.tunnel("t")
    assert record is not None
    assert record.destination == on
    assert record.last_updated_at == 100.0
    store.reset_connections(130.0)
    record = store.tunnel("t")
    assert record is not None
    assert record.destination == ConnectionState(ConnectionStatus.DISCONNECTED, 130.0)
    assert record.source.last_updated_at == 100.0


def test_a_failed_change_leaves_nothing_behind(store: TunnelStore) -> None:
    token = TokenRecord("same", "t", Side.SOURCE, 1.0)
    with pytest.raises(StoreFailed):
        store.add_tunnel(tunnel("t"), [token, token], [])
    assert store.tunnel("t") is None
    store.add_tunnel(tunnel("t"), [token], [])


def test_tokens_are_replaced_by_side(store: TunnelStore) -> None:
    old = [TokenRecord(str(side), "t", side, 100.0) for side in Side]
    store.add_tunnel(tunnel("t"), old, [])
    changed = replace(tunnel("t"), services=("X",), thing_name="thing", last_updated_at=130.0)
    new = TokenRecord("new", "t", Side.SOURCE, 130.0)
    assert store.replace_tokens(changed, [new])
    assert store.tunnel("t") == changed
    assert store.token("source") is None
    assert store.token("new") == new
    assert store.token("destination") == old[1]
    store.close_tunnel("t", 140.0)
    assert not store.replace_tokens(changed, [replace(new, digest="newer")])
    assert store.token("new") == new
    assert not store.replace_tokens(replace(changed, tunnel_id="unknown"), [])


def test_tags_are_replaced(store: TunnelStore) -> None:
    store.add_tunnel(tunnel("t"), [], [("old", "")])
    assert store.tags("t") == (("old", ""),)
    store.set_tags("t", [("caf\u00e9", "1")], "k", 150.0)
    record = store.tunnel("t")
    assert record is not None
    assert record.last_updated_at == 150.0
    assert store.tags("t") == (("caf\u00e9", "1"),)
    assert store.tags("unknown") == ()


def test_tags_count_for_the_key_that_has_set_them_last(store: TunnelStore) -> None:
    store.add_tunnel(tunnel("t", key_id="opener"), [], [("old", "")])
    bare = store.usage("opener", 0.0).stored_bytes - size_of_tags([("old", "")])
    assert bare == tunnel("t").size
    tags = [("new", "x" * 100), ("more", "")]
    store.set_tags("t", tags, "tagger", 150.0)
    assert store.usage("opener", 0.0).stored_bytes == bare
    assert store.usage("tagger", 0.0) == Usage(0, 0, size_of_tags(tags), 0)
    assert store.size_of_tags("t", "tagger") == size_of_tags(tags)
    assert store.size_of_tags("t", "opener") == store.size_of_tags("unknown", "tagger") == 0
    # Who only removes some pays for none.
    store.set_tags("t", tags[1:], None, 151.0)
    assert store.usage("tagger", 0.0).stored_bytes == size_of_tags(tags[1:])
    store.set_tags("t", [], None, 152.0)
    assert store.usage("tagger", 0.0).stored_bytes == 0
    store.set_tags("t", tags, "tagger", 153.0)
    store.delete_tunnel("t")
    assert store.usage(None, 0.0).stored_bytes == 0


def test_usage(store: TunnelStore) -> None:
    """By key and in all, to the byte and at every change."""
    nothing = Usage(0, 0, 0, 0)
    assert store.usage(None, 0.0) == store.usage("k", 0.0) == nothing
    for tunnel_id in ("a", "b", "c"):
        store.add_tunnel(
            tunnel(tunnel_id, key_id="k"), [TokenRecord(tunnel_id, tunnel_id, Side.SOURCE, 1.0)], []
        )
    size = tunnel("a").size
    assert store.usage("k", 110.0) == Usage(3, 0, 3 * size, 3)
    store.close_tunnel("a", 110.0)
    assert store.usage("k", 110.0) == Usage(2, 1, 3 * size, 3)
    assert store.count_due("k", 159.9) == store.count_due("l", 160.0) == 0
    assert store.count_due("k", 160.0) == store.count_due(None, 160.0) == 2
    store.add_tunnel(tunnel("other", key_id="l"), [], [])
    assert store.usage(None, 110.0) == Usage(3, 1, 4 * size, 3)
    assert store.usage("l", 110.0) == Usage(1, 0, size, 1)
    grown = tunnel("b", services=("x" * 100,), key_id="k")
    assert store.replace_tokens(grown, [])
    assert store.usage("k", 110.0).stored_bytes == 2 * size + grown.size
    store.delete_tunnel("b")
    # Deleting does not give back what was opened in this hour; the next hour does.
    assert store.usage("k", 110.0) == Usage(1, 1, 2 * size, 3)
    assert store.usage("k", 3599.0).opened == 3
    assert store.usage("k", 3600.0).opened == 0
    store.add_tunnel(tunnel("later", 3600.0, key_id="k"), [], [])
    assert store.usage("k", 3600.0).opened == 1
    assert store.purge_closed(200.0, 9) == 1
    assert store.usage("k", 110.0) == Usage(2, 0, 2 * size, 0)


def test_keys_that_have_nothing_left_are_forgotten(store: TunnelStore) -> None:
    for key_id in ("gone", "kept"):
        store.add_tunnel(tunnel(key_id, key_id=key_id), [], [])
    store.close_tunnel("gone", 110.0)
    assert store.purge_closed(2 * 3600.0, 9) == 1
    assert store.usage("gone", 110.0).opened == 0
    assert store.usage("kept", 110.0).opened == 1
