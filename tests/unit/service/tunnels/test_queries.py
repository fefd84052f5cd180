"""Reads of the service's state."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.service.errors import TunnelNotFound
from tailrace.service.limits import DEFAULT
from tailrace.service.tunnels.queries import TunnelQueries
from tailrace.service.tunnels.records import TunnelStatus
from tailrace.service.tunnels.rules import RandomIds, Tunnels, TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.unstored import Unstored


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


def test_describe_and_page(store: SqliteStore) -> None:
    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "r", "a")
    with pytest.raises(TunnelNotFound, match="gone"):
        queries.describe("gone")
    tunnel = (
        Tunnels(store, Unstored(), RandomIds(), DEFAULT)
        .open(TunnelSpec(thing_name="x"), 1.0)
        .tunnel
    )
    assert queries.describe(tunnel.tunnel_id) == tunnel
    assert queries.page("x", None, 5).tunnels == (tunnel,)
    assert queries.page("y", None, 5).tunnels == ()


def test_counts(store: SqliteStore) -> None:
    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "r", "a")
    assert queries.count_by_status() == {TunnelStatus.OPEN: 0, TunnelStatus.CLOSED: 0}
    tunnels = Tunnels(store, Unstored(), RandomIds(), DEFAULT)
    first = tunnels.open(TunnelSpec(), 1.0).tunnel.tunnel_id
    tunnels.open(TunnelSpec(), 1.0)
    tunnels.open(TunnelSpec(), 1.0)
    tunnels.close(first, 2.0, connected=False)
    assert queries.count_by_status() == {TunnelStatus.OPEN: 2, TunnelStatus.CLOSED: 1}
