"""The tables of the SQLite store, and how files of older versions get them.

Pages of lists go by ``sequence``. AUTOINCREMENT never uses a number again, so that the order holds
for rows of one instant, and a cursor never meets a row that is newer than its page.

Tags have a table of their own: they may be a third of a megabyte, and SQLite writes a whole row
when one column changes, as happens to a tunnel with each link that comes and goes.

``usage`` sums up what each access key has, so that a quota is checked without counting. Triggers
keep it, in the transaction of each change, cascaded deletions included, whichever process makes it.

A tunnel that is closed gives up its client tokens, so that looking for an open tunnel that has one
does not meet all the closed ones that had it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from ...errors import ConfigurationError
from ..errors import SettingUnusable

__all__ = ["VERSION", "prepare"]

VERSION: Final = 2

_HEADER: Final = 100
"""Bytes without which SQLite takes a file for a new one."""

_TABLES: Final = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (2);
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
    closed_at REAL,
    key_id TEXT NOT NULL,
    size INTEGER NOT NULL
);
CREATE INDEX tunnels_by_thing ON tunnels (thing_name, sequence);
CREATE INDEX tunnels_by_expiry ON tunnels (expires_at, key_id) WHERE status = 'OPEN';
CREATE INDEX tunnels_by_closing ON tunnels (closed_at) WHERE status = 'CLOSED';
CREATE TABLE tags (
    tunnel_id TEXT PRIMARY KEY REFERENCES tunnels (tunnel_id) ON DELETE CASCADE,
    tags TEXT NOT NULL,
    key_id TEXT NOT NULL,
    size INTEGER NOT NULL
);
CREATE TABLE tokens (
    digest TEXT PRIMARY KEY,
    tunnel_id TEXT NOT NULL REFERENCES tunnels (tunnel_id) ON DELETE CASCADE,
    side TEXT NOT NULL,
    issued_at REAL NOT NULL,
    first_used_at REAL,
    client_digest TEXT
) WITHOUT ROWID;
CREATE INDEX tokens_by_tunnel ON tokens (tunnel_id);
CREATE INDEX tokens_by_client ON tokens (client_digest) WHERE client_digest IS NOT NULL;
CREATE TABLE usage (
    key_id TEXT PRIMARY KEY,
    open INTEGER NOT NULL DEFAULT 0,
    closed INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,
    hour INTEGER NOT NULL DEFAULT 0,
    opened INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TRIGGER tunnels_added AFTER INSERT ON tunnels BEGIN
    INSERT OR IGNORE INTO usage (key_id) VALUES (NEW.key_id);
    UPDATE usage SET
        open = open + (NEW.status = 'OPEN'),
        closed = closed + (NEW.status = 'CLOSED'),
        size = size + NEW.size,
        opened = 1 + CASE CAST(NEW.created_at / 3600 AS INTEGER) WHEN hour THEN opened ELSE 0 END,
        hour = CAST(NEW.created_at / 3600 AS INTEGER)
    WHERE key_id = NEW.key_id;
END;
CREATE TRIGGER tunnels_changed AFTER UPDATE OF status, size ON tunnels BEGIN
    UPDATE usage SET
        open = open + (NEW.status = 'OPEN') - (OLD.status = 'OPEN'),
        closed = closed + (NEW.status = 'CLOSED') - (OLD.status = 'CLOSED'),
        size = size + NEW.size - OLD.size
    WHERE key_id = OLD.key_id;
END;
CREATE TRIGGER tunnels_closed AFTER UPDATE OF status ON tunnels WHEN NEW.status = 'CLOSED' BEGIN
    UPDATE tokens SET client_digest = NULL
    WHERE tunnel_id = NEW.tunnel_id AND client_digest IS NOT NULL;
END;
CREATE TRIGGER tunnels_removed AFTER DELETE ON tunnels BEGIN
    UPDATE usage SET
        open = open - (OLD.status = 'OPEN'),
        closed = closed - (OLD.status = 'CLOSED'),
        size = size - OLD.size
    WHERE key_id = OLD.key_id;
END;
CREATE TRIGGER tags_added AFTER INSERT ON tags BEGIN
    INSERT OR IGNORE INTO usage (key_id) VALUES (NEW.key_id);
    UPDATE usage SET size = size + NEW.size WHERE key_id = NEW.key_id;
END;
CREATE TRIGGER tags_removed AFTER DELETE ON tags BEGIN
    UPDATE usage SET size = size - OLD.size WHERE key_id = OLD.key_id;
END;
"""

_SET_ASIDE_1: Final = """
BEGIN IMMEDIATE;
DROP INDEX tunnels_by_thing;
DROP INDEX tunnels_by_expiry;
DROP INDEX tunnels_by_closing;
DROP INDEX tokens_by_tunnel;
DROP INDEX IF EXISTS tokens_by_client;
DROP TABLE schema_version;
ALTER TABLE tunnels RENAME TO tunnels_1;
ALTER TABLE tokens RENAME TO tokens_1;
"""
_COPY_1: Final = """
INSERT INTO tunnels
    SELECT sequence, tunnel_id, status, created_at, last_updated_at, expires_at, lifetime_minutes,
        source_status, source_updated_at, destination_status, destination_updated_at,
        description, thing_name, services, closed_at, '', 1000
    FROM tunnels_1 ORDER BY sequence;
INSERT INTO tags
    SELECT tunnel_id, tags, '', length(CAST(tags AS BLOB)) FROM tunnels_1 WHERE tags != '[]';
INSERT INTO tokens
    SELECT digest, tunnel_id, side, issued_at, first_used_at, client_digest FROM tokens_1;
DROP TABLE tokens_1;
DROP TABLE tunnels_1;
COMMIT;
"""
"""What was stored before there were quotas counts for no key."""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file, or bring those of an older version up to date.

    Raises:
        ConfigurationError: the file is broken, or of a newer version.
        sqlite3.Error: it cannot be read or written.
    """
    run = connection.execute
    if 0 < path.stat().st_size < _HEADER:
        raise _broken(path, "it was cut short")
    (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT")
        return
    (complaint,) = run("PRAGMA quick_check(1)").fetchone()
    if complaint != "ok":
        raise _broken(path, complaint)
    has_version = run("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone()
    row = run("SELECT version FROM schema_version").fetchone() if has_version else None
    if row is None:
        raise _broken(path, "it has no schema version")
    (version,) = row
    if version == 1:
        # Off, because references are to hold at the end only; it cannot be changed in between.
        run("PRAGMA foreign_keys = OFF")
        connection.executescript(_SET_ASIDE_1 + _TABLES + _COPY_1)
    elif version != VERSION:
        raise SettingUnusable(
            "the tunnel store {path} has schema version {version}, this version of "
            "tailrace knows {known}: use the version that wrote it, or another {0}",
            "state_dir",
            path=path,
            version=version,
            known=VERSION,
        )


def _broken(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"the tunnel store {path} is broken: {' '.join(reason.split())}; put a copy back, or "
        "remove it with the files beside it to start without tunnels"
    )
