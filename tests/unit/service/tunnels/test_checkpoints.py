"""The log of the store stays short, and no commit waits for it."""

import asyncio
from pathlib import Path

from support.waiting import HANG
from tailrace.service.tunnels.checkpoints import LOG_BYTES, Checkpoints
from tailrace.service.tunnels.records import (
    ConnectionState,
    ConnectionStatus,
    TunnelRecord,
    TunnelStatus,
)
from tailrace.service.tunnels.sqlite_store import SqliteStore

OFF = ConnectionState(ConnectionStatus.DISCONNECTED, 0.0)


def add(store: SqliteStore, tunnel_id: str) -> None:
    tunnel = TunnelRecord(tunnel_id, TunnelStatus.OPEN, 0, 0, 60, 1, OFF, OFF)
    store.add_tunnel(tunnel, [], [("key", "x" * 1_000_000)])


async def test_a_long_log_is_moved_into_the_file(tmp_path: Path) -> None:
    path, log = tmp_path / "db", tmp_path / "db-wal"
    store = SqliteStore.open(path)
    for number in range(6):
        add(store, f"t{number}")
    # Not by the commits themselves.
    assert log.stat().st_size > LOG_BYTES
    assert path.stat().st_size < 1_000_000
    checkpoints = Checkpoints(path, interval=0.01)
    checkpoints.start()
    async with asyncio.timeout(HANG):
        while path.stat().st_size < 6_000_000:
            await asyncio.sleep(0.01)
        # The next change begins the log anew.
        while log.stat().st_size > LOG_BYTES:
            store.set_tags("t0", [("key", str(log.stat().st_size))], "k", 1.0)
            await asyncio.sleep(0.01)
        await checkpoints.stop()
    store.close()


async def test_it_does_not_mind_a_store_that_is_gone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "missing" / "db", interval=0.01)
    checkpoints._checkpoint()
    checkpoints.start()
    await asyncio.sleep(0.02)
    async with asyncio.timeout(HANG):
        await checkpoints.stop()
