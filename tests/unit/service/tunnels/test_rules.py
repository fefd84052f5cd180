"""Rules of tunnels and tokens, with the clock in the test's hand."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tailrace.common.secret import Secret
from tailrace.service.errors import TunnelClosed, TunnelLimitReached, TunnelNotFound
from tailrace.service.limits import DEFAULT, Limits, Quotas
from tailrace.service.tunnels.records import ConnectionStatus, TunnelStatus
from tailrace.service.tunnels.rules import (
    CLOSED_VISIBLE_SECONDS,
    MAX_TAGS,
    AdmissionRefused,
    Destination,
    Owner,
    RandomIds,
    Refusal,
    Tunnels,
    TunnelSpec,
)
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.unstored import Unstored
from tailrace.wire import Side

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
    return Tunnels(store, Unstored(), CountingIds(), DEFAULT)


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
    tunnels = Tunnels(store, Unstored(), RandomIds(), Limits(services=2))
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

    def test_a_client_token_belongs_to_one_open_tunnel(self, tunnels: Tunnels) -> None:
        first = tunnels.open(TunnelSpec(lifetime_minutes=1), 0.0)
        second = tunnels.open(TunnelSpec(), 0.0)
        tunnels.admit(first.source_token, Side.SOURCE, CLIENT, 1.0)
        tunnels.admit(first.destination_token, Side.DESTINATION, CLIENT, 1.0)
        assert (
            refusal(tunnels, second.source_token, Side.SOURCE, CLIENT, 2.0)
            is Refusal.CLIENT_TOKEN_TAKEN
        )
        # Neither token has been used up by that, and a tunnel that has ended keeps none.
        tunnels.admit(first.source_token, Side.SOURCE, CLIENT, 3.0)
        tunnels.admit(second.source_token, Side.SOURCE, CLIENT, 60.0)
        third = tunnels.open(TunnelSpec(), 60.0)
        tunnels.close(second.tunnel.tunnel_id, 61.0, connected=False)
        tunnels.admit(third.source_token, Side.SOURCE, CLIENT, 62.0)

    def test_wrong_side_does_not_use_the_token_up(self, tunnels: Tunnels) -> None:
        token = tunnels.open(TunnelSpec(), 0.0).source_token
        assert refusal(tunnels, token, Side.DESTINATION, None, 1.0) is Refusal.WRONG_SIDE
        tunnels.admit(token, Side.SOURCE, None, 2.0)

    def test_unknown_token(self, tunnels: Tunnels) -> None:
        assert refusal(tunnels, Secret("no"), Side.SOURCE, None, 1.0) is Refusal.UNKNOWN_TOKEN

    def test_closed_tunnel(self, tunnels: Tunnels) -> None:
        opened = tunnels.open(TunnelSpec(), 0.0)
        tunnels.close("tunnel-1", 1.0, connected=False)
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
        tunnels.close("tunnel-1", 1.0, delete=True, connected=False)
        assert (
            refusal(tunnels, opened.source_token, Side.SOURCE, None, 2.0) is Refusal.UNKNOWN_TOKEN
        )

    def test_another_service_uses_the_token_first(
        self, tunnels: Tunnels, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mark_token_used = store.mark_token_used

        def late(digest: str, client_digest: str | None, now: float) -> bool:
            assert mark_token_used(digest, CLIENT.digest, now)
            return mark_token_used(digest, client_digest, now)

        opened = tunnels.open(TunnelSpec(), 0.0)
        monkeypatch.setattr(store, "mark_token_used", late)
        assert (
            refusal(tunnels, opened.source_token, Side.SOURCE, OTHER_CLIENT, 1.0)
            is Refusal.CLIENT_TOKEN_DIFFERS
        )
        # It may be the same proxy, which came back to this one.
        tunnels.admit(opened.destination_token, Side.DESTINATION, CLIENT, 1.0)

    def test_another_service_deletes_the_tunnel(
        self, tunnels: Tunnels, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = tunnels.open(TunnelSpec(), 0.0).source_token
        monkeypatch.setattr(store, "tunnel", lambda _: None)
        assert refusal(tunnels, token, Side.SOURCE, None, 1.0) is Refusal.UNKNOWN_TOKEN


def test_closing(tunnels: Tunnels, store: SqliteStore) -> None:
    tunnels.open(TunnelSpec(), 0.0)
    tunnels.close("tunnel-1", 5.0, connected=False)
    tunnels.close("tunnel-1", 9.0, connected=False)
    closed = store.tunnel("tunnel-1")
    assert closed is not None
    assert closed.closed_at == 5.0
    tunnels.close("tunnel-1", 9.0, delete=True, connected=False)
    with pytest.raises(TunnelNotFound):
        tunnels.close("tunnel-1", 9.0, connected=False)


def test_expiry_closes_and_purges(tunnels: Tunnels, store: SqliteStore) -> None:
    tunnels.open(TunnelSpec(lifetime_minutes=1), 0.0)
    tunnels.open(TunnelSpec(lifetime_minutes=2), 0.0)
    assert tunnels.next_expiry() == 60.0
    assert list(tunnels.expire(59.0, 9)) == []
    assert list(tunnels.expire(60.0, 9)) == ["tunnel-1"]
    assert list(tunnels.expire(61.0, 9)) == []
    assert tunnels.next_expiry() == 120.0
    closed = store.tunnel("tunnel-1")
    assert closed is not None
    assert closed.status is TunnelStatus.CLOSED
    assert not tunnels.purge(60.0 + CLOSED_VISIBLE_SECONDS, 9)
    assert store.tunnel("tunnel-1") is not None
    assert not tunnels.purge(61.0 + CLOSED_VISIBLE_SECONDS, 9)
    assert store.tunnel("tunnel-1") is None


def test_a_lifetime_can_end_early(tunnels: Tunnels, store: SqliteStore) -> None:
    tunnels.open(TunnelSpec(lifetime_minutes=1), 0.0)
    tunnels.open(TunnelSpec(lifetime_minutes=2), 0.0)
    tunnels.end_lifetime("tunnel-2", 5.0)
    assert tunnels.next_expiry() == 5.0
    with pytest.raises(TunnelClosed):
        tunnels.end_lifetime("tunnel-2", 6.0)
    assert list(tunnels.expire(6.0, 9)) == ["tunnel-2"]
    assert store.is_open("tunnel-1")
    with pytest.raises(TunnelClosed):
        tunnels.end_lifetime("tunnel-2", 7.0)
    with pytest.raises(TunnelNotFound):
        tunnels.end_lifetime("unknown", 7.0)


def test_connection_states(tunnels: Tunnels, store: SqliteStore) -> None:
    tunnels.open(TunnelSpec(), 0.0)
    tunnels.set_connected("tunnel-1", Side.SOURCE, True, 3.0)
    record = store.tunnel("tunnel-1")
    assert record is not None
    assert (record.source.status, record.source.last_updated_at) == (
        ConnectionStatus.CONNECTED,
        3.0,
    )
    tunnels.reset_connections(7.0)
    record = store.tunnel("tunnel-1")
    assert record is not None
    assert (record.source.status, record.source.last_updated_at) == (
        ConnectionStatus.DISCONNECTED,
        7.0,
    )


def test_open_tunnels_are_limited(store: SqliteStore) -> None:
    tunnels = Tunnels(store, Unstored(), CountingIds(), Limits(open_tunnels=2))
    tunnels.open(TunnelSpec(lifetime_minutes=1), 0.0)
    tunnels.open(TunnelSpec(), 0.0)
    with pytest.raises(TunnelLimitReached, match="at most 2 open tunnels"):
        tunnels.open(TunnelSpec(), 59.0)
    # One that has run out counts no more, even before its expiry was dealt with.
    tunnels.open(TunnelSpec(), 60.0)
    with pytest.raises(TunnelLimitReached):
        tunnels.open(TunnelSpec(), 61.0)
    tunnels.close("tunnel-2", 62.0, connected=False)
    tunnels.open(TunnelSpec(), 62.0)


class TestRotation:
    @pytest.mark.parametrize("sides", [(Side.SOURCE,), (Side.DESTINATION,), tuple(Side)])
    def test_old_tokens_are_dead_and_new_ones_good(
        self, tunnels: Tunnels, sides: tuple[Side, ...]
    ) -> None:
        opened = tunnels.open(TunnelSpec(services=("S",)), 0.0)
        old = {Side.SOURCE: opened.source_token, Side.DESTINATION: opened.destination_token}
        for side in Side:
            tunnels.admit(old[side], side, CLIENT, 1.0)
        rotated = tunnels.rotate("tunnel-1", sides, None, Owner(), 5.0)
        assert tuple(rotated.tokens) == rotated.disconnect == sides
        for side in Side:
            if side in sides:
                assert refusal(tunnels, old[side], side, CLIENT, 6.0) is Refusal.UNKNOWN_TOKEN
                # The new token is a fresh one: whatever client token comes first is kept.
                tunnels.admit(rotated.tokens[side], side, OTHER_CLIENT, 7.0)
                assert (
                    refusal(tunnels, rotated.tokens[side], side, CLIENT, 8.0)
                    is Refusal.CLIENT_TOKEN_DIFFERS
                )
            else:
                tunnels.admit(old[side], side, CLIENT, 7.0)

    def test_again_and_again(self, tunnels: Tunnels) -> None:
        tunnels.open(TunnelSpec(), 0.0)
        first = tunnels.rotate("tunnel-1", [Side.SOURCE], None, Owner(), 1.0).tokens[Side.SOURCE]
        second = tunnels.rotate("tunnel-1", [Side.SOURCE], None, Owner(), 2.0).tokens[Side.SOURCE]
        assert refusal(tunnels, first, Side.SOURCE, None, 3.0) is Refusal.UNKNOWN_TOKEN
        tunnels.admit(second, Side.SOURCE, None, 3.0)

    def test_lifetime_stays(self, tunnels: Tunnels, store: SqliteStore) -> None:
        opened = tunnels.open(TunnelSpec(lifetime_minutes=2), 0.0)
        rotated = tunnels.rotate("tunnel-1", Side, None, Owner(), 90.0)
        record = store.tunnel("tunnel-1")
        assert record == rotated.tunnel
        assert record.expires_at == opened.tunnel.expires_at
        assert record.last_updated_at == 90.0
        token = rotated.tokens[Side.SOURCE]
        assert refusal(tunnels, token, Side.SOURCE, None, 120.0) is Refusal.TUNNEL_CLOSED

    def test_another_destination(self, tunnels: Tunnels, store: SqliteStore) -> None:
        tunnels.open(TunnelSpec(thing_name="old", services=("A", "B")), 0.0)
        same = Destination(("B", "A"), "new")
        rotated = tunnels.rotate("tunnel-1", [Side.DESTINATION], same, Owner(), 1.0)
        assert rotated.disconnect == (Side.DESTINATION,)
        record = store.tunnel("tunnel-1")
        assert record is not None
        assert (record.thing_name, record.services) == ("new", ("B", "A"))
        other = Destination(("C",))
        rotated = tunnels.rotate("tunnel-1", [Side.DESTINATION], other, Owner(), 2.0)
        assert rotated.disconnect == tuple(Side)
        assert tuple(rotated.tokens) == (Side.DESTINATION,)
        assert rotated.tunnel.thing_name is None

    def test_what_cannot_be_rotated(self, tunnels: Tunnels, store: SqliteStore) -> None:
        with pytest.raises(TunnelNotFound):
            tunnels.rotate("unknown", Side, None, Owner(), 0.0)
        opened = tunnels.open(TunnelSpec(lifetime_minutes=1), 0.0)
        strict = Tunnels(store, Unstored(), CountingIds(), Limits(services=1))
        with pytest.raises(TunnelLimitReached):
            strict.rotate("tunnel-1", Side, Destination(("A", "B")), Owner(), 1.0)
        with pytest.raises(TunnelClosed, match="tunnel-1"):
            tunnels.rotate("tunnel-1", Side, None, Owner(), 60.0)
        tunnels.admit(opened.source_token, Side.SOURCE, CLIENT, 59.0)
        tunnels.close("tunnel-1", 59.0, connected=False)
        with pytest.raises(TunnelClosed):
            tunnels.rotate("tunnel-1", Side, None, Owner(), 59.0)
        assert store.token(opened.source_token.digest) is not None


class TestTags:
    def test_adding_replacing_removing(self, tunnels: Tunnels, store: SqliteStore) -> None:
        def tags() -> dict[str, str]:
            record = store.tunnel("tunnel-1")
            assert record is not None
            return dict(store.tags("tunnel-1"))

        tunnels.open(TunnelSpec(tags=(("a", "1"),)), 0.0)
        tunnels.tag("tunnel-1", {"a": "2", "b": ""}, Owner(), 5.0)
        assert tags() == {"a": "2", "b": ""}
        tunnels.untag("tunnel-1", ["a", "never"], 6.0)
        assert tags() == {"b": ""}
        record = store.tunnel("tunnel-1")
        assert record is not None
        assert record.last_updated_at == 6.0

    def test_no_tunnel(self, tunnels: Tunnels) -> None:
        with pytest.raises(TunnelNotFound):
            tunnels.tag("unknown", {}, Owner(), 0.0)
        with pytest.raises(TunnelNotFound):
            tunnels.untag("unknown", [], 0.0)

    def test_too_many(self, tunnels: Tunnels) -> None:
        tunnels.open(TunnelSpec(tags=(("a", "1"),)), 0.0)
        tunnels.tag("tunnel-1", {f"k{number}": "" for number in range(MAX_TAGS - 1)}, Owner(), 1.0)
        with pytest.raises(TunnelLimitReached, match="200 tags"):
            tunnels.tag("tunnel-1", {"one more": ""}, Owner(), 1.0)
        tunnels.tag("tunnel-1", {"a": "changed"}, Owner(), 1.0)


class TestQuotas:
    """Of one key: others are not concerned, whatever it does."""

    OWNER = Owner("AK", Quotas(open_tunnels=2, opened_per_hour=4, stored_bytes=10_000))

    def test_open_tunnels(self, tunnels: Tunnels) -> None:
        spec = TunnelSpec(owner=self.OWNER, lifetime_minutes=1)
        first = tunnels.open(spec, 0.0).tunnel.tunnel_id
        tunnels.open(spec, 0.0)
        with pytest.raises(
            TunnelLimitReached, match="AK can have at most 2 open tunnels"
        ) as caught:
            tunnels.open(spec, 0.0)
        assert caught.value.quota == "open_tunnels"
        tunnels.open(replace(spec, owner=Owner("other")), 0.0)
        tunnels.close(first, 1.0, connected=False)
        tunnels.open(spec, 1.0)
        # Those whose lifetime has ended do not count, whether or not the store knows.
        tunnels.open(spec, 61.0)

    def test_tunnels_opened_per_hour(self, tunnels: Tunnels) -> None:
        """Closing and deleting gives nothing back."""
        spec = TunnelSpec(owner=self.OWNER)
        for _ in range(4):
            tunnel_id = tunnels.open(spec, 3599.0).tunnel.tunnel_id
            tunnels.close(tunnel_id, 3599.0, delete=True, connected=False)
        with pytest.raises(TunnelLimitReached, match="at most 4 tunnels in an hour") as caught:
            tunnels.open(spec, 3599.0)
        assert caught.value.quota == "opened_per_hour"
        tunnels.open(replace(spec, owner=Owner("other")), 3599.0)
        tunnels.open(spec, 3600.0)

    def test_stored_bytes(self, tunnels: Tunnels, store: SqliteStore) -> None:
        """Closed tunnels count until they are gone."""
        large = TunnelSpec(owner=self.OWNER, tags=(("k", "x" * 6000),))
        first = tunnels.open(large, 0.0).tunnel.tunnel_id
        tunnels.close(first, 1.0, connected=False)
        with pytest.raises(TunnelLimitReached, match="at most 10000 bytes") as caught:
            tunnels.open(large, 2.0)
        assert caught.value.quota == "stored_bytes"
        small = tunnels.open(TunnelSpec(owner=self.OWNER), 2.0).tunnel.tunnel_id
        with pytest.raises(TunnelLimitReached, match="at most 10000 bytes"):
            tunnels.tag(small, {"k": "x" * 6000}, self.OWNER, 3.0)
        with pytest.raises(TunnelLimitReached, match="at most 10000 bytes"):
            tunnels.rotate(small, [Side.SOURCE], Destination(("x" * 6000,)), self.OWNER, 3.0)
        tunnels.close(first, 3.0, delete=True, connected=False)
        tunnels.tag(small, {"k": "x" * 6000}, self.OWNER, 3.0)
        # What replaces as much needs nothing more.
        tunnels.tag(small, {"k": "y" * 6000}, self.OWNER, 3.0)
        tunnels.untag(small, ["k"], 3.0)
        assert store.usage("AK", 3.0).stored_bytes < 2000

    def test_tags_count_for_those_who_set_them(self, tunnels: Tunnels) -> None:
        """So that nobody can use up the quota of another key."""
        victim = Owner("victim", Quotas(stored_bytes=5000))
        tunnel_id = tunnels.open(TunnelSpec(owner=victim), 0.0).tunnel.tunnel_id
        tunnels.tag(tunnel_id, {"k": "x" * 4500}, self.OWNER, 1.0)
        tunnels.rotate(tunnel_id, [Side.SOURCE], Destination(("A",)), self.OWNER, 1.0)
        tunnels.open(TunnelSpec(owner=victim), 2.0)

    def test_a_key_for_everything_has_ten_times_as_much(self, store: SqliteStore) -> None:
        tunnels = Tunnels(store, Unstored(), CountingIds(), Limits(key_open_tunnels=1))
        for owner, most in ((Owner("some"), 1), (Owner("all", privileged=True), 10)):
            for _ in range(most):
                tunnels.open(TunnelSpec(owner=owner), 0.0)
            with pytest.raises(TunnelLimitReached, match=f"{owner.key_id} can have at most {most}"):
                tunnels.open(TunnelSpec(owner=owner), 0.0)

    def test_0_is_no_limit(self, store: SqliteStore) -> None:
        limits = Limits(key_open_tunnels=0, key_opened_per_hour=0, key_stored_bytes=0)
        tunnels = Tunnels(store, Unstored(), CountingIds(), limits)
        for _ in range(5):
            tunnels.open(TunnelSpec(owner=Owner("AK")), 0.0)
