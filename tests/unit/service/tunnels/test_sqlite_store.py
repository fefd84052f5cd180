"""The SQLite store: what is put in comes out, also after a reopen."""

import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tailrace.errors import ConfigurationError
from tailrace.service.errors import StoreFailed
from tailrace.service.tunnels.records import (
    ConnectionState,
    ConnectionStatus,
    TokenRecord,
    TunnelRecord,
    TunnelStatus,
)
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.store import NEWEST, Things
from tailrace.wire import Side


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "db")
    yield store
    store.close()


def tunnel(tunnel_id: str, created_at: float = 100.0, **changes: object) -> TunnelRecord:
    off = ConnectionState(ConnectionStatus.DISCONNECTED, created_at)
    record = TunnelRecord(
        tunnel_id, TunnelStatus.OPEN, created_at, created_at, created_at + 60, 1, off, off
    )
    return replace(record, **changes)


def test_everything_survives_a_reopen(tmp_path: Path) -> None:
    path = tmp_path / "db"
    record = tunnel(
        "t1",
        description="caf\u00e9 \U0001f600",
        thing_name="thing:1",
        services=("SSH", "a:b"),
    )
    tags = (("k", "v"), ("e", ""))
    token = TokenRecord("d1", "t1", Side.SOURCE, 100.0)
    first = SqliteStore.open(path)
    first.add_tunnel(record, [token], tags)
    assert first.mark_token_used("d1", "c1", 101.5)
    first.close()
    second = SqliteStore.open(path)
    assert second.tunnel("t1") == record
    assert second.tags("t1") == tags
    assert second.token("d1") == replace(token, first_used_at=101.5, client_digest="c1")
    second.close()


def test_files_are_private(tmp_path: Path, store: SqliteStore) -> None:
    store.add_tunnel(tunnel("t"), [], [])
    old = os.umask(0)
    os.umask(old)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_no_temporary_file_is_needed(store: SqliteStore) -> None:
    """There may be no other place that can be written than the directory of the store."""
    (place,) = store._connection.execute("PRAGMA temp_store").fetchone()
    assert place == 2  # memory


def test_two_stores_on_one_file_agree_on_the_first_use(tmp_path: Path) -> None:
    stores = [SqliteStore.open(tmp_path / "db") for _ in range(2)]
    stores[0].add_tunnel(tunnel("t"), [TokenRecord("d", "t", Side.SOURCE, 1.0)], [])
    assert [store.mark_token_used("d", str(n), 2.0) for n, store in enumerate(stores)] == [
        True,
        False,
    ]
    for store in stores:
        store.close()


def test_a_full_disk_harms_nothing_that_comes_later(tmp_path: Path) -> None:
    """What does not fit is not there; reads go on; it works again once there is room."""
    path = tmp_path / "db"
    store = SqliteStore.open(path)
    store.add_tunnel(tunnel("before"), [], [])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("db-wal").stat().st_size, hard))
    try:
        for _ in range(3):
            with pytest.raises(StoreFailed, match="disk"):
                store.add_tunnel(tunnel("full"), [], [])
            with pytest.raises(StoreFailed, match="disk"):
                store.close_tunnel("before", 1.0)
        assert store.tunnel("before") is not None
        assert store.tunnel("full") is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.add_tunnel(tunnel("after"), [], [])
    assert store.close_tunnel("before", 2.0)
    store.close()
    again = SqliteStore.open(path)
    assert again.tunnel("after") is not None
    assert again.tunnel("full") is None
    again.close()


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    """SQLite ends it by itself after some errors only; a deferred constraint is not one."""
    store = SqliteStore.open(tmp_path / "db")
    connection = store._connection
    connection.execute(
        "CREATE TRIGGER stumble AFTER DELETE ON tunnels BEGIN "
        "INSERT INTO late VALUES ('nobody'); END"
    )
    connection.execute(
        "CREATE TABLE late (id TEXT REFERENCES tunnels (tunnel_id) DEFERRABLE INITIALLY DEFERRED)"
    )
    store.add_tunnel(tunnel("t"), [], [])
    for _ in range(2):
        with pytest.raises(StoreFailed, match="FOREIGN KEY"):
            store.delete_tunnel("t")
    assert store.tunnel("t") is not None
    store.close()


def test_a_closed_store_fails_in_our_terms(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "db")
    store.close()
    with pytest.raises(StoreFailed):
        store.tunnel("t")
    with pytest.raises(StoreFailed):
        store.delete_tunnel("t")


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"not a database" * 1000)
    with pytest.raises(ConfigurationError, match="junk"):
        SqliteStore.open(junk)
    with pytest.raises(ConfigurationError, match="missing"):
        SqliteStore.open(tmp_path / "missing" / "db")


def test_a_lock_of_another_process_is_not_waited_for(tmp_path: Path) -> None:
    """That is for those who can wait without holding up the event loop."""
    store, other = (SqliteStore.open(tmp_path / "db") for _ in range(2))
    store.add_tunnel(tunnel("t"), [], [])
    other._connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed, match="locked") as caught:
        store.close_tunnel("t", 1.0)
    assert caught.value.busy
    assert store._connection.execute("PRAGMA busy_timeout").fetchone() == (0,)
    # Reading goes on.
    assert store.tunnel("t") is not None
    other._connection.execute("COMMIT")
    assert store.close_tunnel("t", 1.0)
    # Where the service starts and stops, there is time.
    store.reset_connections(1.0)
    assert store._connection.execute("PRAGMA busy_timeout").fetchone() == (0,)
    store.close()
    other.close()


@pytest.mark.parametrize("tags", ["not JSON", "[1]", "{}", "7"])
def test_broken_tags_harm_nothing_else(store: SqliteStore, tags: str) -> None:
    """Only what shows tags reads them: they may be a third of a megabyte."""
    store.add_tunnel(tunnel("t"), [TokenRecord("d", "t", Side.SOURCE, 1.0)], [("k", "secret")])
    store._connection.execute("UPDATE tags SET tags = ?", (tags,))
    assert store.tunnel("t") is not None
    assert len(store.list_tunnels(Things(), NEWEST, 5)[0]) == 1
    if tags != "{}":
        with pytest.raises(StoreFailed, match="a row of it is broken"):
            store.tags("t")


@pytest.mark.parametrize(
    ("column", "value"), [("services", "["), ("status", "?"), ("source_status", "x")]
)
def test_broken_rows_fail_in_our_terms(store: SqliteStore, column: str, value: str) -> None:
    store.add_tunnel(tunnel("t"), [], [])
    store._connection.execute(f"UPDATE tunnels SET {column} = ?", (value,))
    with pytest.raises(StoreFailed, match="a row of it is broken"):
        store.tunnel("t")


def test_a_broken_token_fails_in_our_terms(store: SqliteStore) -> None:
    store.add_tunnel(tunnel("t"), [TokenRecord("d", "t", Side.SOURCE, 1.0)], [])
    store._connection.execute("UPDATE tokens SET side = 'x'")
    with pytest.raises(StoreFailed, match="a row of it is broken"):
        store.token("d")
