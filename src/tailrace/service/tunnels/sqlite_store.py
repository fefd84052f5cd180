"""The embedded store: one SQLite file in WAL mode, readable by its owner only.

Calls are synchronous and made in the event loop's thread: each is a handful of page-cache
operations and takes microseconds, less than handing it to a thread would.

Reads are single statements, each of which sees one snapshot of the file. Every change is a
transaction that begins with BEGIN IMMEDIATE, which takes the write lock before anything is
read: a transaction that has read first cannot wait for the lock, since its snapshot would
be outdated, and fails instead. What depends on the state before is part of the statement
that changes it (``WHERE status = 'OPEN'``), and the number of changed rows tells whether
it applied. So processes that share a file agree on who closed a tunnel or used a token.

With ``synchronous=NORMAL`` a commit is written to the log, but not flushed to disk.
Everything committed survives the death of the process (kill -9); a power cut may undo the
last moments, but never corrupts the file.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ...errors import ConfigurationError
from ...wire import Side
from ..errors import InvalidCursor, SettingUnusable, StoreFailed
from .records import (
    ConnectionState,
    ConnectionStatus,
    TokenRecord,
    TunnelPage,
    TunnelRecord,
    TunnelStatus,
)

__all__ = ["SqliteStore"]

_VERSION: Final = 1

# Pages go by ``sequence``. AUTOINCREMENT never uses a number again, so that the order holds
# for rows of one instant, and a cursor never meets a row that is newer than its page.
_SCHEMA: Final = """
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
"""

# Also for files that are older than this index.
_CLIENT_INDEX: Final = """
CREATE INDEX IF NOT EXISTS tokens_by_client ON tokens (client_digest)
    WHERE client_digest IS NOT NULL
"""

_COLUMNS: Final = (
    "tunnel_id, status, created_at, last_updated_at, expires_at, lifetime_minutes, "
    "source_status, source_updated_at, destination_status, destination_updated_at, "
    "description, thing_name, services, tags, closed_at"
)


def _tunnel(row: Sequence[Any]) -> TunnelRecord:
    return TunnelRecord(
        tunnel_id=row[0],
        status=TunnelStatus(row[1]),
        created_at=row[2],
        last_updated_at=row[3],
        expires_at=row[4],
        lifetime_minutes=row[5],
        source=ConnectionState(ConnectionStatus(row[6]), row[7]),
        destination=ConnectionState(ConnectionStatus(row[8]), row[9]),
        description=row[10],
        thing_name=row[11],
        services=tuple(json.loads(row[12])),
        tags=tuple((key, value) for key, value in json.loads(row[13])),
        closed_at=row[14],
    )


def _row(tunnel: TunnelRecord) -> tuple[Any, ...]:
    return (
        tunnel.tunnel_id,
        tunnel.status,
        tunnel.created_at,
        tunnel.last_updated_at,
        tunnel.expires_at,
        tunnel.lifetime_minutes,
        tunnel.source.status,
        tunnel.source.last_updated_at,
        tunnel.destination.status,
        tunnel.destination.last_updated_at,
        tunnel.description,
        tunnel.thing_name,
        json.dumps(tunnel.services),
        json.dumps(tunnel.tags),
        tunnel.closed_at,
    )


class SqliteStore:
    """A :class:`~.store.TunnelStore` in one file; made by :meth:`open`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> SqliteStore:
        """Open the store at ``path``, and make the file (mode 0600) if it is missing.

        Raises:
            ConfigurationError: the file cannot be used, or another version wrote it.
        """
        try:
            # Made here and not by SQLite, so that others can never read it; the -wal and
            # -shm files get the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"cannot open the tunnel store {path}: {error}") from error
        store = cls(connection)
        try:
            store._prepare(path)
        except sqlite3.Error as error:
            connection.close()
            raise ConfigurationError(f"cannot use the tunnel store {path}: {error}") from error
        except ConfigurationError:
            connection.close()
            raise
        return store

    def _prepare(self, path: Path) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA temp_store = MEMORY")  # there may be no other place that can be written
        known = run("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone()
        if known is None:
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT")
            version = _VERSION
        else:
            (version,) = run("SELECT version FROM schema_version").fetchone()
        if version != _VERSION:
            raise SettingUnusable(
                "the tunnel store {path} has schema version {version}, this version of "
                "tailrace knows {known}: use the version that wrote it, or another {0}",
                "state_dir",
                path=path,
                version=version,
                known=_VERSION,
            )
        run(_CLIENT_INDEX)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite itself ends it after some errors, but not after all. One that is left
                # open by a failed COMMIT would make every later BEGIN fail.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreFailed(f"the tunnel store failed: {error}") from error

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreFailed(f"the tunnel store failed: {error}") from error

    def _value(self, sql: str, *values: object) -> Any:
        return self._query(sql, *values)[0][0]

    def _change(self, sql: str, *values: object) -> bool:
        """Carry out one statement; return whether it has changed a row."""
        with self._transaction() as connection:
            return connection.execute(sql, values).rowcount > 0

    def add_tunnel(self, tunnel: TunnelRecord, tokens: Sequence[TokenRecord]) -> None:
        row = _row(tunnel)
        marks = ", ".join("?" * len(row))
        sql = f"INSERT INTO tunnels ({_COLUMNS}) VALUES ({marks})"  # noqa: S608 - constants
        with self._transaction() as connection:
            connection.execute(sql, row)
            _insert_tokens(connection, tokens)

    def tunnel(self, tunnel_id: str) -> TunnelRecord | None:
        sql = f"SELECT {_COLUMNS} FROM tunnels WHERE tunnel_id = ?"  # noqa: S608 - constants
        rows = self._query(sql, tunnel_id)
        return _tunnel(rows[0]) if rows else None

    def list_tunnels(self, thing_name: str | None, cursor: str | None, limit: int) -> TunnelPage:
        sql = (
            f"SELECT {_COLUMNS}, sequence FROM tunnels "  # noqa: S608 - constants
            "WHERE sequence < ? AND (? IS NULL OR thing_name = ?) ORDER BY sequence DESC LIMIT ?"
        )
        # One row more than asked for tells whether there is another page.
        rows = self._query(sql, _parse_cursor(cursor), thing_name, thing_name, limit + 1)
        page = tuple(_tunnel(row) for row in rows[:limit])
        return TunnelPage(page, str(rows[limit - 1][-1]) if len(rows) > limit else None)

    def close_tunnel(self, tunnel_id: str, now: float) -> bool:
        sql = (
            "UPDATE tunnels SET status = 'CLOSED', closed_at = ?, last_updated_at = ? "
            "WHERE tunnel_id = ? AND status = 'OPEN'"
        )
        return self._change(sql, now, now, tunnel_id)

    def count_open(self, now: float) -> int:
        sql = "SELECT count(*) FROM tunnels WHERE status = 'OPEN' AND expires_at > ?"
        return int(self._value(sql, now))

    def set_tags(self, tunnel_id: str, tags: Sequence[tuple[str, str]], now: float) -> None:
        sql = "UPDATE tunnels SET tags = ?, last_updated_at = ? WHERE tunnel_id = ?"
        self._change(sql, json.dumps(tags), now, tunnel_id)

    def delete_tunnel(self, tunnel_id: str) -> None:
        self._change("DELETE FROM tunnels WHERE tunnel_id = ?", tunnel_id)

    def token(self, digest: str) -> TokenRecord | None:
        sql = (
            "SELECT tunnel_id, side, issued_at, first_used_at, client_digest "
            "FROM tokens WHERE digest = ?"
        )
        for tunnel_id, side, issued_at, first_used_at, client_digest in self._query(sql, digest):
            return TokenRecord(
                digest, tunnel_id, Side(side), issued_at, first_used_at, client_digest
            )
        return None

    def mark_token_used(self, digest: str, client_digest: str | None, now: float) -> bool:
        sql = (
            "UPDATE tokens SET first_used_at = ?, client_digest = ? "
            "WHERE digest = ? AND first_used_at IS NULL"
        )
        return self._change(sql, now, client_digest, digest)

    def client_token_elsewhere(self, client_digest: str, tunnel_id: str, now: float) -> bool:
        sql = (
            "SELECT 1 FROM tokens JOIN tunnels USING (tunnel_id) "
            "WHERE client_digest = ? AND tunnel_id != ? AND status = 'OPEN' AND expires_at > ? "
            "LIMIT 1"
        )
        return bool(self._query(sql, client_digest, tunnel_id, now))

    def replace_tokens(self, tunnel: TunnelRecord, tokens: Sequence[TokenRecord]) -> bool:
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE tunnels SET services = ?, thing_name = ?, last_updated_at = ? "
                "WHERE tunnel_id = ? AND status = 'OPEN'",
                (
                    json.dumps(tunnel.services),
                    tunnel.thing_name,
                    tunnel.last_updated_at,
                    tunnel.tunnel_id,
                ),
            )
            if changed.rowcount:
                connection.executemany(
                    "DELETE FROM tokens WHERE tunnel_id = ? AND side = ?",
                    [(tunnel.tunnel_id, token.side) for token in tokens],
                )
                _insert_tokens(connection, tokens)
        return changed.rowcount > 0

    def set_connection(self, tunnel_id: str, side: Side, state: ConnectionState) -> None:
        sql = (
            f"UPDATE tunnels SET {side}_status = ?, {side}_updated_at = ? "  # noqa: S608 - enum
            "WHERE tunnel_id = ?"
        )
        self._change(sql, state.status, state.last_updated_at, tunnel_id)

    def reset_connections(self, now: float) -> None:
        with self._transaction() as connection:
            for side in Side:
                connection.execute(
                    f"UPDATE tunnels SET {side}_status = 'DISCONNECTED', "  # noqa: S608 - enum
                    f"{side}_updated_at = ? WHERE {side}_status = 'CONNECTED'",
                    (now,),
                )

    def due_tunnels(self, now: float) -> tuple[str, ...]:
        sql = "SELECT tunnel_id FROM tunnels WHERE status = 'OPEN' AND expires_at <= ?"
        return tuple(tunnel_id for (tunnel_id,) in self._query(sql, now))

    def next_expiry(self) -> float | None:
        expiry: float | None = self._value(
            "SELECT min(expires_at) FROM tunnels WHERE status = 'OPEN'"
        )
        return expiry

    def count_by_status(self) -> dict[TunnelStatus, int]:
        # One by one, because each is answered from the partial index of its status.
        sql = "SELECT count(*) FROM tunnels WHERE status = '{}'"
        return {status: int(self._value(sql.format(status))) for status in TunnelStatus}

    def purge_closed(self, closed_before: float) -> None:
        self._change("DELETE FROM tunnels WHERE status = 'CLOSED' AND closed_at < ?", closed_before)

    def close(self) -> None:
        self._connection.close()


def _insert_tokens(connection: sqlite3.Connection, tokens: Sequence[TokenRecord]) -> None:
    connection.executemany(
        "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?)",
        [
            (t.digest, t.tunnel_id, t.side, t.issued_at, t.first_used_at, t.client_digest)
            for t in tokens
        ],
    )


def _parse_cursor(cursor: str | None) -> int:
    if cursor is None:
        return 2**63 - 1
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise InvalidCursor("not a number that an earlier page ended with")
    return int(cursor)
