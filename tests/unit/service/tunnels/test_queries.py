"""Reads of the service's state."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.service.errors import InvalidCursor, TunnelNotFound
from tailrace.service.limits import DEFAULT
from tailrace.service.tunnels.queries import TunnelQueries
from tailrace.service.tunnels.records import TunnelSummary, Usage
from tailrace.service.tunnels.rules import RandomIds, Tunnels, TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.store import NEWEST, Things
from tailrace.service.tunnels.unstored import Ending, Unstored


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "db")
    yield store
    store.close()


def test_arns_go_both_ways(store: SqliteStore) -> None:
    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "eu-west-1", "123456789012")
    arn = queries.arn("abc")
    assert arn == "arn:aws:iot:eu-west-1:123456789012:tunnel/abc"
    assert queries.tunnel_id(arn) == "abc"
    with pytest.raises(TunnelNotFound):
        queries.tunnel_id("arn:aws:iot:us-east-1:123456789012:tunnel/abc")


async def test_describe_and_page(store: SqliteStore) -> None:
    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "r", "a")
    with pytest.raises(TunnelNotFound, match="gone"):
        queries.describe("gone")
    tunnel = (
        Tunnels(store, Unstored(), RandomIds(), DEFAULT)
        .open(TunnelSpec(thing_name="x"), 1.0)
        .tunnel
    )
    assert queries.describe(tunnel.tunnel_id) == tunnel
    (found,) = (await queries.page(Things("x"), None, 5, "AK")).tunnels
    assert (found.tunnel_id, found.thing_name) == (tunnel.tunnel_id, "x")
    assert (await queries.page(Things("y"), None, 5, "AK")).tunnels == ()


def test_counts(store: SqliteStore) -> None:
    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "r", "a")
    assert queries.usage() == Usage(open=0, closed=0, stored_bytes=0, opened=0)
    tunnels = Tunnels(store, Unstored(), RandomIds(), DEFAULT)
    first = tunnels.open(TunnelSpec(), 1.0).tunnel.tunnel_id
    tunnels.open(TunnelSpec(), 1.0)
    tunnels.open(TunnelSpec(), 1.0)
    tunnels.close(first, 2.0, connected=False)
    assert queries.usage() == Usage(open=2, closed=1, stored_bytes=3024, opened=3)


async def pages(
    queries: TunnelQueries, things: Things, limit: int, reader: str = "AK"
) -> list[list[str | None]]:
    """Thing names of all tunnels, page by page."""
    found: list[list[str | None]] = []
    cursor = None
    while cursor is not None or not found:
        page = await queries.page(things, cursor, limit, reader)
        found.append([tunnel.thing_name for tunnel in page.tunnels])
        cursor = page.cursor
    return found


async def test_pages_tell_nothing_of_other_things(store: SqliteStore) -> None:
    """They are what they would be without the others, down to their number and length."""
    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "r", "a")
    tunnels = Tunnels(store, Unstored(), RandomIds(), DEFAULT)
    names = (*["pump-1", "pump-2", "lamp"] * 2, *["other"] * 1500)
    for name in names:
        tunnels.open(TunnelSpec(thing_name=name), 1.0)
    pumps = Things(patterns=("pump-?",))
    assert await pages(queries, pumps, 2) == [["pump-2", "pump-1"]] * 2
    assert await pages(queries, Things(patterns=("lamp", "pump-*")), 6) == [
        ["lamp", "pump-2", "pump-1"] * 2
    ]
    for only in (Things("lamp"), Things(patterns=("lamp",))):
        assert await pages(queries, only, 1) == [["lamp"], ["lamp"]]
    assert await pages(queries, Things(patterns=()), 5) == [[]]
    assert sum(map(len, await pages(queries, Things(), 100))) == len(names)


async def test_cursors_are_of_one_reader_and_one_list(store: SqliteStore) -> None:
    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "r", "a")
    tunnels = Tunnels(store, Unstored(), RandomIds(), DEFAULT)
    for _ in range(3):
        tunnels.open(TunnelSpec(thing_name="x"), 1.0)
    page = await queries.page(Things(), None, 1, "AK")
    assert len((await queries.page(Things(), page.cursor, 5, "AK")).tunnels) == 2
    for things, reader in ((Things("x"), "AK"), (Things(), "other")):
        with pytest.raises(InvalidCursor):
            await queries.page(things, page.cursor, 5, reader)


async def test_removed_tunnels_leave_no_gap(store: SqliteStore) -> None:
    """Also those whose removal could not be stored."""
    unstored = Unstored()
    queries = TunnelQueries(store, unstored, lambda: 1.0, "r", "a")
    tunnels = Tunnels(store, unstored, RandomIds(), DEFAULT)
    opened = [tunnels.open(TunnelSpec(), 1.0).tunnel.tunnel_id for _ in range(4)]
    unstored.endings[opened[2]] = Ending(1.0, delete=True)
    page = await queries.page(Things(), None, 2, "AK")
    assert [tunnel.tunnel_id for tunnel in page.tunnels] == [opened[3], opened[1]]
    with pytest.raises(TunnelNotFound):
        queries.tags(opened[2])


async def test_those_who_search_the_same_things_take_turns(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn of the loop looks at a bounded number of tunnels, however many ask."""
    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "r", "a")
    parts = 0

    def part(things: Things, before: int, limit: int) -> tuple[list[TunnelSummary], int]:
        nonlocal parts
        parts += 1
        return [], (4 if before == NEWEST else before - 1)

    monkeypatch.setattr(store, "list_tunnels", part)
    loop = asyncio.get_running_loop()
    searches = [
        loop.create_task(queries.page(Things(patterns=("a*",)), None, 9, "AK")) for _ in range(5)
    ]
    counts = []
    while not all(search.done() for search in searches):
        before = parts
        await asyncio.sleep(0)
        counts.append(parts - before)
    assert parts == 25
    assert max(counts) <= 2
    assert not queries._scans
