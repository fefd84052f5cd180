"""Files of older versions, and files that are broken."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tailrace.errors import ConfigurationError
from tailrace.service.tunnels.records import (
    ConnectionState,
    ConnectionStatus,
    TokenRecord,
    TunnelRecord,
    TunnelStatus,
    Usage,
)
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.wire import Side

VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (1);
CREATE TABLE tunnels (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    tunnel_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    last_updated_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    lifetime_minutes INTEGER NOT NULL,
    source_status TEXT NOT NULL,
    source_updated_at REAL NOT NULL,
    destination_status TEXT NOT NULL,
    destination_updated_at REAL NOT NULL,
    description TEXT,
    thing_name TEXT,
    services TEXT NOT NULL,
    tags TEXT NOT NULL,
    closed_at REAL
);
CREATE INDEX tunnels_by_thing ON tunnels (thing_name, sequence);
CREATE INDEX tunnels_by_expiry ON tunnels (expires_at) WHERE status = 'OPEN';
CREATE INDEX tunnels_by_closing ON tunnels (closed_at) WHERE status = 'CLOSED';
CREATE TABLE tokens (
    digest TEXT PRIMARY KEY,
    tunnel_id TEXT NOT NULL REFERENCES tunnels (tunnel_id) ON DELETE CASCADE,
    side TEXT NOT NULL,
    issued_at REAL NOT NULL,
    first_used_at REAL,
    client_digest TEXT
) WITHOUT ROWID;
CREATE INDEX tokens_by_tunnel ON tokens (tunnel_id);
INSERT INTO tunnels VALUES
    (3, 'a', 'OPEN', 100.0, 101.0, 160.0, 1, 'CONNECTED', 102.0, 'DISCONNECTED', 103.0,
     'text', 'lamp', '["SSH"]', '[["k", "v"]]', NULL),
    (7, 'b', 'CLOSED', 100.0, 101.0, 160.0, 1, 'DISCONNECTED', 102.0, 'DISCONNECTED', 103.0,
     NULL, NULL, '[]', '[]', 130.0);
INSERT INTO tokens VALUES ('d', 'a', 'source', 100.0, 104.0, 'c');
"""


def test_a_file_of_version_1_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
    for _ in range(2):
        store = SqliteStore.open(path)
        assert store.tunnel("a") == TunnelRecord(
            "a",
            TunnelStatus.OPEN,
            100.0,
            101.0,
            160.0,
            1,
            ConnectionState(ConnectionStatus.CONNECTED, 102.0),
            ConnectionState(ConnectionStatus.DISCONNECTED, 103.0),
            "text",
            "lamp",
            ("SSH",),
        )
        assert store.tags("a") == (("k", "v"),)
        assert store.tags("b") == ()
        closed = store.tunnel("b")
        assert closed is not None
        assert closed.closed_at == 130.0
        assert store.token("d") == TokenRecord("d", "a", Side.SOURCE, 100.0, 104.0, "c")
        assert store.client_token_elsewhere("c", "b", 120.0)
        assert store.usage(None, 120.0) == Usage(open=1, closed=1, stored_bytes=2012, opened=2)
        store.close()
    store = SqliteStore.open(path)
    store.delete_tunnel("a")
    assert store.token("d") is None
    assert store.tags("a") == ()
    assert store.usage(None, 120.0).stored_bytes == 1000
    plan = store._query("EXPLAIN QUERY PLAN SELECT 1 FROM tokens WHERE client_digest = 'c'")
    assert "tokens_by_client" in plan[0][-1]
    store.close()


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        SqliteStore.open(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("version", [0, 99])
def test_other_versions_are_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "db"
    SqliteStore.open(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE schema_version SET version = ?", (version,))
    assert f"schema version {version}" in refusal(path)


def test_a_file_without_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    SqliteStore.open(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM schema_version")
    assert "is broken: it has no schema version; put a copy back" in refusal(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE schema_version")
    assert "is broken: it has no schema version" in refusal(path)


def test_a_file_that_was_cut_or_written_over_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    SqliteStore.open(path).close()
    content = path.read_bytes()
    for size in range(1, len(content), 4096):
        path.write_bytes(content[:size])
        refusal(path)
    for at in range(4096, len(content), 4096):
        path.write_bytes(content[:at] + b"\xff" * 4096 + content[at + 4096 :])
        refusal(path)
    path.write_bytes(content)
    SqliteStore.open(path).close()
