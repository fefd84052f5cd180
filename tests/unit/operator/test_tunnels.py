"""Finding tunnels by the beginning of an id, and telling them apart."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from support.network.certificates import Certificates
from support.network.https_server import answer, scripted_https
from support.service import config, dial, running
from support.service.scripted_client import ScriptedClient, tunnel
from tailrace import Client, Credentials, Secret
from tailrace.aws import SideState, TunnelDescription, TunnelState, TunnelSummary
from tailrace.errors import ConfigurationError, ControlError, ControlThrottled, TunnelNotFound
from tailrace.operator.tunnels import (
    Details,
    Order,
    call_with_tunnel,
    describe_tunnels,
    latest_tunnels,
    local_time,
    short_ids,
    sort_tunnels,
    time_left,
    tunnel_rows,
)
from tailrace.service.tunneling_service import TunnelingService
from tailrace.service.tunnels.rules import TunnelSpec

NOW = datetime(2026, 11, 26, 22, 30, tzinfo=timezone(timedelta(hours=1)))


class CountingClient(Client):
    """Counts the calls that list tunnels."""

    lists = 0

    def list(self, **options: Any) -> AsyncIterator[TunnelSummary]:
        self.lists += 1
        return super().list(**options)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[TunnelingService]:
    async with running(config(tmp_path / "state")) as service:
        yield service


@pytest.fixture
async def client(service: TunnelingService) -> AsyncIterator[CountingClient]:
    at = service.endpoints
    async with CountingClient(
        region=at.region,
        endpoint=at.api_endpoint,
        credentials=Credentials(at.access_key_id, Secret(at.secret_access_key)),
        ca=at.ca_file,
    ) as client:
        yield client


def described(tunnel_id: str, **changes: object) -> TunnelDescription:
    values = {
        "tunnel_id": tunnel_id,
        "arn": "",
        "state": TunnelState.OPEN,
        "description": "",
        "opened": NOW - timedelta(minutes=10),
        "changed": NOW,
        "source": SideState(False),
        "destination": SideState(False),
        "thing": None,
        "services": (),
        "lifetime": timedelta(hours=12),
        "tags": {},
    }
    return TunnelDescription(**(values | changes))


def summary(tunnel_id: str, **changes: object) -> TunnelSummary:
    full = described(tunnel_id, **changes)
    return TunnelSummary(
        full.tunnel_id, full.arn, full.state, full.description, full.opened, full.changed
    )


class TestIds:
    @pytest.mark.parametrize(
        ("ids", "short"),
        [
            ([], []),
            (["0123456789"], ["01234567"]),
            (["0123456789", "0123456789"], ["01234567"]),
            (["0123456789ab", "0123456788ab"], ["0123456788", "0123456789"]),
            (["0123456789", "0123456789ab"], ["0123456789", "0123456789a"]),
            (["abc", "x"], ["abc", "x"]),
        ],
    )
    def test_short_ones(self, ids: list[str], short: list[str]) -> None:
        assert sorted(short_ids(ids).values()) == short
        assert all(each.startswith(begin) for each, begin in short_ids(ids).items())

    async def test_a_whole_one_costs_no_list(
        self, service: TunnelingService, client: CountingClient
    ) -> None:
        tunnel_id = service._running.control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
        found = await call_with_tunnel(client, tunnel_id, client.describe)
        assert found.tunnel_id == tunnel_id
        with pytest.raises(TunnelNotFound, match="does not exist"):
            await call_with_tunnel(client, tunnel_id[:-3] + "zzz", client.describe)
        assert client.lists == 0

    async def test_the_beginning_of_one(
        self, service: TunnelingService, client: CountingClient
    ) -> None:
        control = service._running.control
        tunnel_id = control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
        for length in (35, 8, 1):
            found = await call_with_tunnel(client, tunnel_id[:length], client.describe)
            assert found.tunnel_id == tunnel_id

    async def test_more_than_one(self, service: TunnelingService, client: CountingClient) -> None:
        control = service._running.control
        ids: list[str] = []
        while not (same := [each for each in ids if each[0] == ids[-1][0]])[1:]:
            spec = TunnelSpec(description=f"number {len(ids)}")
            ids.append(control.open_tunnel(spec).tunnel.tunnel_id)
        begin = same[0][0]
        with pytest.raises(ConfigurationError) as caught:
            await call_with_tunnel(client, begin, client.describe)
        text = str(caught.value)
        assert text.startswith(f"'{begin}' is the beginning of 2 tunnels; write more of the id: ")
        for each in same:
            assert f"{each[:8]} (OPEN, opened " in text
            assert f", number {ids.index(each)})" in text

        # Only one of them is open.
        control.close_tunnel(same[0], delete=False)
        found = await call_with_tunnel(client, begin, client.describe, only_open=True)
        assert found.tunnel_id == same[1]
        with pytest.raises(ConfigurationError, match=f"{same[0][:8]} \\(CLOSED, opened "):
            await call_with_tunnel(client, begin, client.describe)
        control.close_tunnel(same[1], delete=False)
        with pytest.raises(ConfigurationError, match="2 tunnels"):
            await call_with_tunnel(client, begin, client.describe, only_open=True)

    async def test_none(self, service: TunnelingService, client: CountingClient) -> None:
        with pytest.raises(TunnelNotFound, match=r"xyz does not exist; .*, no tunnel is open$"):
            await call_with_tunnel(client, "xyz", client.describe)
        ids = [
            service._running.control.open_tunnel(TunnelSpec()).tunnel.tunnel_id for _ in range(7)
        ]
        with pytest.raises(TunnelNotFound, match=r" and 2 more$") as caught:
            await call_with_tunnel(client, "xyz", client.describe)
        assert sum(each[:8] in str(caught.value) for each in ids) == 5


class TestDetails:
    async def test_several_at_a_time(
        self, service: TunnelingService, client: CountingClient
    ) -> None:
        control = service._running.control
        opened = [
            control.open_tunnel(TunnelSpec(thing_name=f"t{n}", services=("SSH",))) for n in range(9)
        ]
        ids = [each.tunnel.tunnel_id for each in opened]
        control.close_tunnel(ids[3], delete=True)
        told: list[int] = []
        at = service.endpoints
        other = Client(
            region=at.region,
            endpoint=at.api_endpoint,
            credentials=Credentials(at.access_key_id, Secret(at.secret_access_key)),
            ca=at.ca_file,
        )
        async with (
            other,
            dial(at, "destination", opened[1].destination_token.reveal(), expect_ids=["SSH"]),
        ):
            details = await describe_tunnels([client, other], ids, told.append)
        assert set(details.found) == set(ids) - {ids[3]}
        assert details.refusal is None
        assert told == list(range(1, 9))
        assert details.found[ids[1]].destination.is_connected
        assert not details.found[ids[1]].source.is_connected
        assert details.found[ids[2]].thing == "t2"

    @pytest.mark.parametrize(
        ("code", "status"), [("AccessDeniedException", 403), ("ThrottlingException", 400)]
    )
    async def test_a_refusal_is_the_last_call(
        self, certificates: Certificates, code: str, status: int
    ) -> None:
        async with scripted_https(certificates) as server:
            server.answers = [answer({"__type": code, "message": "no"}, status)] * 9
            client = scripted(server.port, certificates)
            details = await describe_tunnels([client], "abc")
            await client.aclose()
            assert details.found == {}
            assert code in str(details.refusal)
            assert len(server.bodies) == 1

    async def test_a_fault_ends_all(self, certificates: Certificates) -> None:
        async with scripted_https(certificates) as server:
            server.answers = [answer({"tunnel": 1}), answer({"tunnel": 1})]
            clients = [scripted(server.port, certificates) for _ in range(2)]
            with pytest.raises(ControlError, match="makes no sense"):
                await describe_tunnels(clients, "abc")
            for client in clients:
                await client.aclose()


def scripted(port: int, certificates: Certificates) -> Client:
    return Client(
        region="eu-west-1",
        endpoint=f"https://localhost:{port}",
        credentials=Credentials("AKEXAMPLE", Secret("secret")),
        ca=certificates.ca_file,
        attempts=1,
    )


class TestRows:
    def test_what_is_known(self) -> None:
        connected = SideState(True, datetime(2026, 11, 26, 20, 5, tzinfo=UTC))
        tunnels = [
            described("0123456789a"),
            described(
                "1123456789a",
                thing="pump-7",
                services=("SSH", "HTTP"),
                destination=connected,
                source=SideState(True),
                opened=NOW - timedelta(days=1),
                lifetime=timedelta(days=1, minutes=2),
                description="of yesterday",
            ),
            described("2123456789a", state=TunnelState.CLOSED, thing="x"),
        ]
        details = Details({each.tunnel_id: each for each in tunnels})
        head, first, second, third = tunnel_rows(tunnels, details, NOW)
        assert head[:6] == ("TUNNEL", "STATUS", "THING", "SERVICES", "SOURCE", "DESTINATION")
        assert head[6:] == ("LEFT", "OPENED", "DESCRIPTION")
        assert first == ("01234567", "OPEN", "-", "-", "-", "-", "11 h 50 min", "22:20", "")
        assert second[2:6] == ("pump-7", "SSH,HTTP", "connected", "since 21:05")
        assert second[6:] == ("2 min", "2026-11-25 22:30", "of yesterday")
        assert third[1:7] == ("CLOSED", "x", "-", "-", "-", "-")

    def test_what_is_not(self) -> None:
        tunnels = [summary("0123456789a"), summary("1123456789a", state=TunnelState.CLOSED)]
        _, first, second = tunnel_rows(tunnels, Details(), NOW)
        assert first[2:7] == ("?",) * 5
        assert second[2:7] == ("-",) * 5
        head, first, _ = tunnel_rows(tunnels, None, NOW)
        assert head == ("TUNNEL", "STATUS", "OPENED", "DESCRIPTION")
        assert first == ("01234567", "OPEN", "22:20", "")

    def test_orders(self) -> None:
        hour = timedelta(hours=1)
        tunnels = [
            described("old", opened=NOW - 3 * hour, thing="b", lifetime=12 * hour),
            described("new", opened=NOW - hour, thing="a", lifetime=11 * hour),
            described("closed", state=TunnelState.CLOSED, thing="0"),
            described("none", opened=NOW - 2 * hour, lifetime=3 * hour),
        ]
        listed = [summary(each.tunnel_id, opened=each.opened) for each in tunnels]
        details = Details({each.tunnel_id: each for each in tunnels})

        def order(by: Order, known: Details | None = details) -> list[str]:
            return [each.tunnel_id for each in sort_tunnels(listed, known, by)]

        assert order(Order.OPENED) == ["new", "none", "old", "closed"]
        assert order(Order.THING) == ["none", "new", "old", "closed"]
        assert order(Order.LEFT) == ["none", "old", "new", "closed"]
        # Nothing tells yet that it was closed.
        assert order(Order.OPENED, None) == ["closed", "new", "none", "old"]

    @pytest.mark.parametrize(
        ("passed", "left"),
        [
            (timedelta(0), "2 h 0 min"),
            (timedelta(minutes=1, microseconds=1), "1 h 58 min"),
            (timedelta(hours=1, seconds=1), "59 min"),
            (timedelta(hours=1, minutes=59, seconds=1), "59 s"),
            (timedelta(hours=3), "0 s"),
        ],
    )
    def test_time_left(self, passed: timedelta, left: str) -> None:
        tunnel = described("t", opened=NOW - passed, lifetime=timedelta(hours=2))
        assert time_left(tunnel, NOW.astimezone(UTC)) == left

    def test_local_times(self) -> None:
        assert local_time(datetime(2026, 11, 25, 23, 0, tzinfo=UTC), NOW) == "00:00"
        assert local_time(datetime(2026, 11, 25, 22, 59, tzinfo=UTC), NOW) == "2026-11-25 23:59"


async def test_the_latest_tunnels() -> None:
    client = ScriptedClient(tunnel("b"), tunnel("a"))
    assert await latest_tunnels(client, None, 9) == client.tunnels
    # Some of them would look like all.
    client.faults["describe"] = ControlThrottled("", "too often")
    with pytest.raises(ControlThrottled):
        await latest_tunnels(client, "t", 9)
