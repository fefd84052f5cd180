"""Rules of tunnels and tokens, with the clock in the test's hand."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tailrace.secret import Secret
from tailrace.service.errors import TunnelLimitReached, TunnelNotFound
from tailrace.service.sqlite_store import SqliteStore
from tailrace.service.store import ConnectionStatus, Side, TunnelStatus
from tailrace.service.tunnels import (
    CLOSED_VISIBLE_SECONDS,
    AdmissionRefused,
    RandomIds,
    Refusal,
    TunnelLimits,
    Tunnels,
    TunnelSpec,
)

CLIENT = Secret("c" * 32)
OTHER_CLIENT = Secret("d" * 32)


class CountingIds(RandomIds):
    """Ids that a test can foresee."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def tunnel_id(self) -> str:
        return f"tunnel-{next(self._numbers)}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "db")
    yield store
    store.close()


@pytest.fixture
def tunnels(store: SqliteStore) -> Tunnels:
    return Tunnels(store, CountingIds())


def refusal(
    tunnels: Tunnels, token: Secret, side: Side, client: Secret | None, now: float
) -> Refusal:
    with pytest.raises(AdmissionRefused) as caught:
        tunnels.admit(token, side, client, now)
    return caught.value.refusal


def test_opening(tunnels: Tunnels, store: SqliteStore) -> None:
    opened = tunnels.open(TunnelSpec("text", "thing", ("SSH",), 5, (("k", "v"),)), 1000.0)
    tunnel = opened.tunnel
    assert tunnel.tunnel_id == "tunnel-1"
    assert tunnel.expires_at == 1300.0
    assert tunnel.source.status is ConnectionStatus.DISCONNECTED
    assert store.tunnel("tunnel-1") == tunnel
    assert opened.source_token != opened.destination_token


def test_default_lifetime_is_twelve_hours(tunnels: Tunnels) -> None:
    assert tunnels.open(TunnelSpec(), 0.0).tunnel.expires_at == 12 * 3600


def test_tokens_are_stored_as_hashes_only(tunnels: Tunnels, tmp_path: Path) -> None:
    opened = tunnels.open(TunnelSpec(), 0.0)
    tunnels.admit(opened.source_token, Side.SOURCE, CLIENT, 1.0)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in (opened.source_token, opened.destination_token, CLIENT):
        assert secret.reveal().encode() not in content
    assert opened.source_token.digest.encode() in content


def test_random_tokens_have_256_bits_and_are_safe_everywhere() -> None:
    tokens = {RandomIds().access_token().reveal() for _ in range(200)}
    assert len(tokens) == 200
    for token in tokens:
        assert len(token.removeprefix("trt_")) == 43
        assert token.replace("-", "").replace("_", "").isalnum()
        assert not token.startswith("-")


def test_service_limit(store: SqliteStore) -> None:
    tunnels = Tunnels(store, RandomIds(), TunnelLimits(services=2))
    tunnels.open(TunnelSpec(services=("a", "b")), 0.0)
    with pytest.raises(TunnelLimitReached, match="at most 2"):
        tunnels.open(TunnelSpec(services=("a", "b", "c")), 0.0)


class TestAdmission:
    def test_without_client_token_once(self, tunnels: Tunnels) -> None:
        token = tunnels.open(TunnelSpec(), 0.0).source_token
        assert tunnels.admit(token, Side.SOURCE, None, 1.0).tunnel_id == "tunnel-1"
        assert refusal(tunnels, token, Side.SOURCE, None, 2.0) is Refusal.TOKEN_USED
        assert refusal(tunnels, token, Side.SOURCE, CLIENT, 2.0) is Refusal.TOKEN_USED

    def test_with_client_token_again_and_again(self, tunnels: Tunnels) -> None:
        token = tunnels.open(TunnelSpec(), 0.0).destination_token
        for now in range(1, 4):
            tunnels.admit(token, Side.DESTINATION, CLIENT, float(now))
        assert (
            refusal(tunnels, token, Side.DESTINATION, OTHER_CLIENT, 5.0)
            is Refusal.CLIENT_TOKEN_DIFFERS
        )
        assert refusal(tunnels, token, Side.DESTINATION, None, 5.0) is Refusal.TOKEN_USED
        tunnels.admit(token, Side.DESTINATION, CLIENT, 6.0)

    def test_wrong_side_does_not_use_the_token_up(self, tunnels: Tunnels) -> None:
        token = tunnels.open(TunnelSpec(), 0.0).source_token
        assert refusal(tunnels, token, Side.DESTINATION, None, 1.0) is Refusal.WRONG_SIDE
        tunnels.admit(token, Side.SOURCE, None, 2.0)

    def test_unknown_token(self, tunnels: Tunnels) -> None:
        assert refusal(tunnels, Secret("no"), Side.SOURCE, None, 1.0) is Refusal.UNKNOWN_TOKEN

    def test_closed_tunnel(self, tunnels: Tunnels) -> None:
        opened = tunnels.open(TunnelSpec(), 0.0)
        tunnels.close("tunnel-1", 1.0)
        assert (
            refusal(tunnels, opened.source_token, Side.SOURCE, None, 2.0) is Refusal.TUNNEL_CLOSED
        )

    def test_expired_to_the_second_even_before_expiry_ran(self, tunnels: Tunnels) -> None:
        opened = tunnels.open(TunnelSpec(lifetime_minutes=1), 0.0)
        tunnels.admit(opened.source_token, Side.SOURCE, CLIENT, 59.9)
        assert (
            refusal(tunnels, opened.source_token, Side.SOURCE, CLIENT, 60.0)
            is Refusal.TUNNEL_CLOSED
        )

    def test_deleted_tunnel(self, tunnels: Tunnels) -> None:
        opened = tunnels.open(TunnelSpec(), 0.0)
        tunnels.close("tunnel-1", 1.0, delete=True)
        assert (
            refusal(tunnels, opened.source_token, Side.SOURCE, None, 2.0) is Refusal.UNKNOWN_TOKEN
        )


def test_closing(tunnels: Tunnels, store: SqliteStore) -> None:
    tunnels.open(TunnelSpec(), 0.0)
    tunnels.close("tunnel-1", 5.0)
    tunnels.close("tunnel-1", 9.0)
    closed = store.tunnel("tunnel-1")
    assert closed is not None
    assert closed.closed_at == 5.0
    tunnels.close("tunnel-1", 9.0, delete=True)
    with pytest.raises(TunnelNotFound):
        tunnels.close("tunnel-1", 9.0)


def test_expiry_closes_and_purges(tunnels: Tunnels, store: SqliteStore) -> None:
    tunnels.open(TunnelSpec(lifetime_minutes=1), 0.0)
    tunnels.open(TunnelSpec(lifetime_minutes=2), 0.0)
    assert tunnels.next_expiry() == 60.0
    assert tunnels.expire(59.0) == ()
    assert tunnels.expire(60.0) == ("tunnel-1",)
    assert tunnels.expire(61.0) == ()
    assert tunnels.next_expiry() == 120.0
    closed = store.tunnel("tunnel-1")
    assert closed is not None
    assert closed.status is TunnelStatus.CLOSED
    tunnels.expire(60.0 + CLOSED_VISIBLE_SECONDS)
    assert store.tunnel("tunnel-1") is not None
    tunnels.expire(61.0 + CLOSED_VISIBLE_SECONDS)
    assert store.tunnel("tunnel-1") is None


def test_connection_states(tunnels: Tunnels, store: SqliteStore) -> None:
    tunnels.open(TunnelSpec(), 0.0)
    tunnels.set_connected("tunnel-1", Side.SOURCE, True, 3.0)
    record = store.tunnel("tunnel-1")
    assert record is not None
    assert (record.source.status, record.source.last_updated_at) == (
        ConnectionStatus.CONNECTED,
        3.0,
    )
    tunnels.start(7.0)
    record = store.tunnel("tunnel-1")
    assert record is not None
    assert (record.source.status, record.source.last_updated_at) == (
        ConnectionStatus.DISCONNECTED,
        7.0,
    )
