"""The embedded store: one SQLite file in WAL mode, readable by its owner only.

Calls are synchronous and made in the event loop's thread: each is a handful of page-cache
operations and takes microseconds, less than handing it to a thread would. None of them waits.
Where another process holds the write lock, a change fails at once with ``StoreFailed.busy``, and
callers that can wait try again between turns of the loop (:mod:`.patience`). A thread for the store
would do the same with a queue, in which what only reads waits, too, and an admission could no
longer be judged between two reads of a socket. Reads never meet the lock, in WAL mode.

Reads are single statements, each of which sees one snapshot of the file. Every change is a
transaction that begins with BEGIN IMMEDIATE, which takes the write lock before anything is
read: a transaction that has read first cannot wait for the lock, since its snapshot would
be outdated, and fails instead. What depends on the state before is part of the statement
that changes it (``WHERE status = 'OPEN'``), and the number of changed rows tells whether
it applied. So processes that share a file agree on who closed a tunnel or used a token.

With ``synchronous=NORMAL`` a commit is written to the log, but not flushed to disk.
Everything committed survives the death of the process (kill -9); a power cut may undo the
last moments, but never corrupts the file. What waits for the disk is done in a thread
(:mod:`.checkpoints`).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from ...common.private_files import open_private
from ...errors import ConfigurationError
from ...wire import Side
from ..errors import StoreFailed
from .checkpoints import LOG_BYTES
from .records import (
    ConnectionState,
    ConnectionStatus,
    TokenRecord,
    TunnelRecord,
    TunnelStatus,
    TunnelSummary,
    Usage,
    size_of_tags,
)
from .schema import prepare
from .store import Things

__all__ = ["SqliteStore"]

_T = TypeVar("_T")

_PATIENT_SECONDS: Final = 5.0
"""For a lock of another process, while the service starts and stops."""

_SCANNED: Final = 1000
"""Tunnels that one call looks at to find those of some things: a millisecond or less."""

_PATTERNS: Final = 100
"""Patterns in one part of a condition; SQLite allows only so much nesting."""

_COLUMNS: Final = (
    "tunnel_id, status, created_at, last_updated_at, expires_at, lifetime_minutes, "
    "source_status, source_updated_at, destination_status, destination_updated_at, "
    "description, thing_name, services, closed_at, key_id"
)

_SUMMARY: Final = (
    "SELECT sequence, tunnel_id, status, created_at, last_updated_at, expires_at, "
    "description, thing_name FROM tunnels "
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
        closed_at=row[13],
        key_id=row[14],
    )


def _summary(row: Sequence[Any]) -> TunnelSummary:
    return TunnelSummary(row[0], row[1], TunnelStatus(row[2]), *row[3:])


def _token(row: Sequence[Any]) -> TokenRecord:
    return TokenRecord(row[0], row[1], Side(row[2]), *row[3:])


def _tags(row: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in json.loads(row[0]))


def _parsed(parse: Callable[[Sequence[Any]], _T], row: Sequence[Any]) -> _T:
    try:
        return parse(row)
    except (ValueError, TypeError):
        # Without the cause, which would quote the row.
        raise StoreFailed("the tunnel store failed: a row of it is broken") from None


def _to_json(value: object) -> str:
    # Not in ASCII: that would take up to three times as much.
    return json.dumps(value, ensure_ascii=False)


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
        _to_json(tunnel.services),
        tunnel.closed_at,
        tunnel.key_id,
    )


class SqliteStore:
    """A :class:`~.store.TunnelStore` in one file; made by :meth:`open`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._data_version: int | None = None

    @classmethod
    def open(cls, path: Path) -> SqliteStore:
        """Open the store at ``path``, and make the file (mode 0600) if it is missing.

        Raises:
            ConfigurationError: the file cannot be used, or another version wrote it.
        """
        try:
            # Made here and not by SQLite, so that others can never read it; the -wal and
            # -shm files get the same mode.
            os.close(open_private(path, os.O_RDWR | os.O_CREAT))
            connection = sqlite3.connect(path, timeout=_PATIENT_SECONDS, isolation_level=None)
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
        prepare(self._connection, path)
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("PRAGMA wal_autocheckpoint = 0")
        run(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA busy_timeout = 0")
        run("PRAGMA temp_store = MEMORY")  # there may be no other place that can be written

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
            raise _failed(error) from error

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _failed(error) from error

    def _value(self, sql: str, *values: object) -> Any:
        return self._query(sql, *values)[0][0]

    def _change(self, sql: str, *values: object) -> int:
        """Carry out one statement; return how many rows it has changed."""
        with self._transaction() as connection:
            return connection.execute(sql, values).rowcount

    def add_tunnel(
        self,
        tunnel: TunnelRecord,
        tokens: Sequence[TokenRecord],
        tags: Sequence[tuple[str, str]],
    ) -> None:
        row = (*_row(tunnel), tunnel.size)
        marks = ", ".join("?" * len(row))
        sql = f"INSERT INTO tunnels ({_COLUMNS}, size) VALUES ({marks})"  # noqa: S608 - constants
        with self._transaction() as connection:
            connection.execute(sql, row)
            _insert_tokens(connection, tokens)
            _insert_tags(connection, tunnel.tunnel_id, tags, tunnel.key_id)

    def tunnel(self, tunnel_id: str) -> TunnelRecord | None:
        sql = f"SELECT {_COLUMNS} FROM tunnels WHERE tunnel_id = ?"  # noqa: S608 - constants
        rows = self._query(sql, tunnel_id)
        return _parsed(_tunnel, rows[0]) if rows else None

    def tags(self, tunnel_id: str) -> tuple[tuple[str, str], ...]:
        rows = self._query("SELECT tags FROM tags WHERE tunnel_id = ?", tunnel_id)
        return _parsed(_tags, rows[0]) if rows else ()

    def list_tunnels(
        self, things: Things, before: int, limit: int
    ) -> tuple[list[TunnelSummary], int]:
        after, condition, values = -1, "", things.patterns or ()
        if things.name is not None:
            condition, values = "AND thing_name = ?", (things.name,)
        elif things.patterns is not None:
            condition = f"AND ({_matching(len(things.patterns))})"
            # GLOB knows sets of characters, too, which patterns do not.
            values = tuple(pattern.replace("[", "[[]") for pattern in things.patterns)
            after = self._sequence_before(before, _SCANNED)
        rows = self._query(
            f"{_SUMMARY} WHERE sequence < ? AND sequence > ? {condition} "
            "ORDER BY sequence DESC LIMIT ?",
            before,
            after,
            *values,
            limit,
        )
        found = [_parsed(_summary, row) for row in rows]
        if len(found) == limit:
            return found, found[-1].sequence
        return found, after + 1

    def _sequence_before(self, before: int, count: int) -> int:
        """Return the sequence of the tunnel ``count`` places before one, -1 without it."""
        sql = (
            "SELECT sequence FROM tunnels WHERE sequence < ? "
            "ORDER BY sequence DESC LIMIT 1 OFFSET ?"
        )
        rows = self._query(sql, before, count)
        return int(rows[0][0]) if rows else -1

    def close_tunnel(self, tunnel_id: str, now: float) -> bool:
        sql = (
            "UPDATE tunnels SET status = 'CLOSED', closed_at = ?, "
            "last_updated_at = min(?, expires_at) "
            "WHERE tunnel_id = ? AND status = 'OPEN'"
        )
        return self._change(sql, now, now, tunnel_id) > 0

    def set_expiry(self, tunnel_id: str, at: float) -> bool:
        sql = "UPDATE tunnels SET expires_at = ? WHERE tunnel_id = ? AND status = 'OPEN'"
        return self._change(sql, at, tunnel_id) > 0

    def usage(self, key_id: str | None, now: float) -> Usage:
        sql = (
            "SELECT total(open), total(closed), total(size), "
            "coalesce(max(CASE hour WHEN ? THEN opened ELSE 0 END), 0) FROM usage "
            "WHERE ? IS NULL OR key_id = ?"
        )
        ((is_open, closed, size, opened),) = self._query(sql, int(now // 3600), key_id, key_id)
        return Usage(int(is_open), int(closed), int(size), opened)

    def count_due(self, key_id: str | None, now: float) -> int:
        sql = (
            "SELECT count(*) FROM tunnels WHERE status = 'OPEN' AND expires_at <= ? "
            "AND (? IS NULL OR key_id = ?)"
        )
        return int(self._value(sql, now, key_id, key_id))

    def set_tags(
        self, tunnel_id: str, tags: Sequence[tuple[str, str]], key_id: str | None, now: float
    ) -> None:
        with self._transaction() as connection:
            sql = "UPDATE tunnels SET last_updated_at = ? WHERE tunnel_id = ?"
            if not connection.execute(sql, (now, tunnel_id)).rowcount:
                return
            sql = "SELECT key_id FROM tags WHERE tunnel_id = ?"
            for (counts_for,) in connection.execute(sql, (tunnel_id,)).fetchall():
                connection.execute("DELETE FROM tags WHERE tunnel_id = ?", (tunnel_id,))
                key_id = counts_for if key_id is None else key_id
            _insert_tags(connection, tunnel_id, tags, key_id or "")

    def size_of_tags(self, tunnel_id: str, key_id: str) -> int:
        sql = "SELECT size FROM tags WHERE tunnel_id = ? AND key_id = ?"
        return sum(size for (size,) in self._query(sql, tunnel_id, key_id))

    def delete_tunnel(self, tunnel_id: str) -> None:
        self._change("DELETE FROM tunnels WHERE tunnel_id = ?", tunnel_id)

    def token(self, digest: str) -> TokenRecord | None:
        sql = (
            "SELECT digest, tunnel_id, side, issued_at, first_used_at, client_digest "
            "FROM tokens WHERE digest = ?"
        )
        rows = self._query(sql, digest)
        return _parsed(_token, rows[0]) if rows else None

    def mark_token_used(self, digest: str, client_digest: str | None, now: float) -> bool:
        sql = (
            "UPDATE tokens SET first_used_at = ?, client_digest = ? "
            "WHERE digest = ? AND first_used_at IS NULL"
        )
        return self._change(sql, now, client_digest, digest) > 0

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
                "UPDATE tunnels SET services = ?, thing_name = ?, last_updated_at = ?, size = ? "
                "WHERE tunnel_id = ? AND status = 'OPEN'",
                (
                    _to_json(tunnel.services),
                    tunnel.thing_name,
                    tunnel.last_updated_at,
                    tunnel.size,
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
        # The service starts or stops: no turn of the loop is held up.
        self._connection.execute(f"PRAGMA busy_timeout = {1000 * _PATIENT_SECONDS:.0f}")
        try:
            with self._transaction() as connection:
                for side in Side:
                    connection.execute(
                        f"UPDATE tunnels SET {side}_status = 'DISCONNECTED', "  # noqa: S608 - enum
                        f"{side}_updated_at = ? WHERE {side}_status = 'CONNECTED'",
                        (now,),
                    )
        finally:
            self._connection.execute("PRAGMA busy_timeout = 0")

    def due_tunnels(self, now: float, limit: int) -> tuple[str, ...]:
        sql = "SELECT tunnel_id FROM tunnels WHERE status = 'OPEN' AND expires_at <= ? LIMIT ?"
        return tuple(tunnel_id for (tunnel_id,) in self._query(sql, now, limit))

    def next_expiry(self) -> float | None:
        expiry: float | None = self._value(
            "SELECT min(expires_at) FROM tunnels WHERE status = 'OPEN'"
        )
        return expiry

    def purge_closed(self, closed_before: float, limit: int) -> int:
        due = (
            "SELECT sequence FROM tunnels WHERE status = 'CLOSED' AND closed_at < ? "
            "ORDER BY closed_at LIMIT ?"
        )
        sequences = self._query(due, closed_before, limit)
        if sequences:  # Otherwise a sweep with nothing to do would take the write lock.
            with self._transaction() as connection:
                connection.executemany("DELETE FROM tunnels WHERE sequence = ?", sequences)
                # Of keys that have nothing left and do not count by the hour any more.
                connection.execute(
                    "DELETE FROM usage WHERE open = 0 AND closed = 0 AND size = 0 AND hour < ?",
                    (closed_before // 3600,),
                )
        return len(sequences)

    def changed_elsewhere(self) -> bool:
        before, self._data_version = self._data_version, self._value("PRAGMA data_version")
        return before is not None and before != self._data_version

    def is_open(self, tunnel_id: str) -> bool:
        sql = "SELECT 1 FROM tunnels WHERE tunnel_id = ? AND status = 'OPEN'"
        return bool(self._query(sql, tunnel_id))

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


def _insert_tags(
    connection: sqlite3.Connection, tunnel_id: str, tags: Sequence[tuple[str, str]], key_id: str
) -> None:
    if tags:
        row = (tunnel_id, _to_json(tags), key_id, size_of_tags(tags))
        connection.execute("INSERT INTO tags VALUES (?, ?, ?, ?)", row)


def _matching(count: int) -> str:
    """Return a condition that is true for a thing name that one of ``count`` patterns matches."""
    parts = ["thing_name GLOB ?"] * count
    while len(parts) > 1:
        parts = [
            f"({' OR '.join(parts[at : at + _PATTERNS])})" for at in range(0, count, _PATTERNS)
        ]
        count = len(parts)
    return parts[0] if parts else "0"


def _failed(error: sqlite3.Error) -> StoreFailed:
    # The low byte is the kind; the rest says more about it.
    kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    busy = kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return StoreFailed(f"the tunnel store failed: {error}", busy=busy)
