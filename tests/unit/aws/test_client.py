"""``tailrace.Client`` against a running service, and where it finds what it is not given."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import tailrace
from support.network.certificates import Certificates
from support.network.https_server import answer, scripted_https
from support.network.web_proxies import proxy_server
from support.service import config, dial, running
from tailrace.aws import Client, Credentials, JoinedService, joined
from tailrace.aws.joined import write_joined
from tailrace.aws.results import TunnelState
from tailrace.common.enrolment import Role
from tailrace.common.secret import Secret
from tailrace.errors import (
    CallRefused,
    ConfigurationError,
    ControlCertificateRejected,
    ControlError,
    CredentialsRefused,
    TunnelNotFound,
)
from tailrace.service.config import Endpoints
from tailrace.wire import Side


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of AWS in this process, and few authorities of the system: they take time."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "system").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(Certificates(tmp_path / "system").ca_file))


@pytest.fixture
async def endpoints(tmp_path: Path) -> AsyncIterator[Endpoints]:
    async with running(config(tmp_path / "state")) as service:
        yield service.endpoints


@pytest.fixture
async def client(endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """With what ``tailrace env`` prints."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_IOTSECURETUNNELING", endpoints.api_endpoint)
    monkeypatch.setenv("AWS_CA_BUNDLE", endpoints.ca_file)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoints.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoints.secret_access_key)
    monkeypatch.setenv("AWS_REGION", endpoints.region)
    async with tailrace.Client() as made:
        yield made


async def test_the_joined_service_is_called(
    endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key))
    place = (endpoints.api_endpoint, endpoints.data_endpoint, endpoints.region)
    service = JoinedService(Role.OPERATOR, "alice", *place, Path(), key)
    write_joined(tmp_path / "joined", service, (tmp_path / "state/tls/ca.pem").read_bytes())
    monkeypatch.setenv("TAILRACE_SERVICE_DIR", str(tmp_path / "joined"))
    # Files of AWS tools come behind it, the environment before.
    (tmp_path / "aws-config").write_text("[default]\nregion = eu-west-1\n")
    async with tailrace.Client() as client:
        assert (client.endpoint, client.region) == (endpoints.api_endpoint, endpoints.region)
        assert [each async for each in client.list()] == []
    async with tailrace.Client(region="eu-central-1", credentials=key) as client:
        assert client.endpoint == "https://api.tunneling.iot.eu-central-1.amazonaws.com"
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    async with tailrace.Client() as client:
        assert client.endpoint == "https://api.tunneling.iot.eu-north-1.amazonaws.com"


async def test_the_service_that_runs_here_is_called_where_nothing_else_is_named(
    endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined, "_SYSTEM", tmp_path / "none")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "tailrace").symlink_to(tmp_path / "state")
    async with tailrace.Client() as client:
        assert client.endpoint == endpoints.api_endpoint
        assert [each async for each in client.list()] == []
    with pytest.raises(ConfigurationError, match="no region"):
        tailrace.Client(credentials=Credentials("AK", Secret("SK")))
    (tmp_path / "aws-config").write_text("[default]\nregion = eu-west-1\n")
    key = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}
    for name, value in key.items():
        monkeypatch.setenv(name, value)
    async with tailrace.Client() as client:
        assert client.endpoint == "https://api.tunneling.iot.eu-west-1.amazonaws.com"


async def test_a_tunnel_from_open_to_close(endpoints: Endpoints, client: Client) -> None:
    opened = await client.open(
        thing="lamp",
        services=["SSH", "VNC"],
        description="caf\u00e9 \u2615",
        lifetime=timedelta(minutes=5),
        tags={"a": "b", "c": ""},
    )
    async with dial(endpoints, "source", opened.source_token.reveal(), expect_ids=["SSH", "VNC"]):
        found = await client.describe(opened.tunnel_id)
    assert (found.tunnel_id, found.arn) == (opened.tunnel_id, opened.arn)
    assert (found.thing, found.services) == ("lamp", ("SSH", "VNC"))
    assert (found.description, found.lifetime) == ("caf\u00e9 \u2615", timedelta(minutes=5))
    assert found.tags == {"a": "b", "c": ""}
    assert found.state is TunnelState.OPEN
    assert found.source.is_connected
    assert not found.destination.is_connected
    assert found.opened <= found.source.since <= datetime.now(UTC)
    await client.close(opened.tunnel_id)
    assert (await client.describe(opened.tunnel_id)).state is TunnelState.CLOSED
    await client.close(opened.tunnel_id, delete=True)
    with pytest.raises(TunnelNotFound):
        await client.describe(opened.tunnel_id)


async def test_rotation(endpoints: Endpoints, client: Client) -> None:
    opened = await client.open()
    both = await client.rotate(opened.tunnel_id)
    assert both.source_token not in (None, opened.source_token)
    assert both.destination_token not in (None, opened.destination_token)
    one = await client.rotate(opened.tunnel_id, Side.DESTINATION, thing="lamp", services=("SSH",))
    assert one.source_token is None
    assert one.arn == opened.arn
    async with dial(endpoints, "destination", one.destination_token.reveal(), expect_ids=["SSH"]):
        pass
    assert (await client.rotate(opened.tunnel_id, Side.SOURCE)).destination_token is None


async def test_tags_by_arn_and_by_id(client: Client) -> None:
    opened = await client.open(tags={"a": "1"})
    await client.tag(opened.arn, {"b": "2", "a": "3"})
    await client.tag(opened.tunnel_id, {"c": "4"})
    assert await client.tags(opened.arn) == {"a": "3", "b": "2", "c": "4"}
    await client.untag(opened.tunnel_id, ["a", "nothing"])
    await client.untag(opened.arn, {"b"})
    assert await client.tags(opened.tunnel_id) == {"c": "4"}
    with pytest.raises(TunnelNotFound):
        await client.tags("nobody")


async def test_lists(client: Client) -> None:
    ids = [(await client.open()).tunnel_id for _ in range(3)]
    lamp = await client.open(thing="lamp", services=["SSH"])
    found = [each.tunnel_id async for each in client.list()]
    assert found == [lamp.tunnel_id, *reversed(ids)]
    assert [each.tunnel_id async for each in client.list(thing="lamp")] == [lamp.tunnel_id]
    assert [each.tunnel_id async for each in client.list(limit=2)] == found[:2]
    async for each in client.list():
        assert each.state is TunnelState.OPEN
        break


async def test_calls_at_the_same_time(client: Client) -> None:
    opened = await asyncio.gather(*(client.open() for _ in range(20)))
    assert len({each.tunnel_id for each in opened}) == 20


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda client: client.open(thing="lamp"), "a thing needs services"),
        (lambda client: client.open(services="SSH"), "services is 'SSH': give a list, ['SSH']"),
        (lambda client: client.untag("arn:x", "key"), "keys is 'key': give a list"),
        (lambda client: client.open(lifetime=timedelta(seconds=90)), "number of whole minutes"),
        (lambda client: client.open(lifetime=timedelta(0)), "number of whole minutes"),
        (lambda client: client.open(lifetime=-timedelta(minutes=1)), "number of whole minutes"),
        (lambda client: client.open(lifetime=60), "is not a timedelta: give timedelta(minutes=60)"),
        (lambda client: client.rotate("id", "SOURCE"), "is not a tailrace.Side, as Side.SOURCE"),
    ],
)
async def test_wrong_arguments(client: Client, call: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await call(client)
    assert said in str(caught.value)
    assert caught.value.setting or "keys" in said
    assert [each async for each in client.list()] == []


async def test_what_the_service_refuses(client: Client) -> None:
    with pytest.raises(CallRefused, match="ValidationException"):
        await client.open(lifetime=timedelta(minutes=721))


async def test_a_response_that_makes_no_sense(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with scripted_https(certificates) as server:
        server.answers = [answer({"tunnelId": "t"})]
        async with Client(
            region="r",
            endpoint=server.url,
            credentials=Credentials("AKID", Secret("hidden")),
            ca=certificates.ca_file,
        ) as client:
            with pytest.raises(ControlError, match="OpenTunnel: the response makes no sense: "):
                await client.open()


# -- where things are found ------------------------------------------------------------------


def arguments(endpoints: Endpoints) -> dict[str, Any]:
    return {
        "region": endpoints.region,
        "endpoint": endpoints.api_endpoint,
        "credentials": Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key)),
        "ca": endpoints.ca_file,
    }


async def test_what_is_given_is_not_looked_for(
    endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    async with Client(**arguments(endpoints)) as client:
        assert await client.open()
    with pytest.raises(ConfigurationError, match="nobody"):
        Client(**(arguments(endpoints) | {"ca": None}))


@pytest.mark.parametrize("how", ["argument", "variable"])
async def test_a_profile(
    endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (tmp_path / "aws-config").write_text(
        f"[profile lab]\nregion = {endpoints.region}\nca_bundle = {endpoints.ca_file}\n"
        f"services = s\n[services s]\niotsecuretunneling =\n"
        f"  endpoint_url = {endpoints.api_endpoint}\n"
    )
    (tmp_path / "aws-credentials").write_text(
        f"[lab]\naws_access_key_id = {endpoints.access_key_id}\n"
        f"aws_secret_access_key = {endpoints.secret_access_key}\n"
    )
    if how == "variable":
        monkeypatch.setenv("AWS_PROFILE", "lab")
    else:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKNOT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not")
    async with Client(profile="lab" if how == "argument" else None) as client:
        assert await client.open()


def test_no_region() -> None:
    with pytest.raises(ConfigurationError, match=r"^no region: give one, or set AWS_REGION$"):
        Client()


async def test_an_argument_goes_before_what_is_found(
    endpoints: Endpoints, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    del client
    async with Client(credentials=Credentials("AKNOT", Secret("not"))) as other:
        with pytest.raises(CredentialsRefused):
            await other.open()
    async with Client(region="eu-west-9") as other:
        with pytest.raises(CredentialsRefused, match="InvalidSignatureException"):
            await other.open()
    monkeypatch.setenv("AWS_ENDPOINT_URL_IOTSECURETUNNELING", "https://127.0.0.1:1")
    async with Client(endpoint=endpoints.api_endpoint) as other:
        assert await other.open()
    async with Client(ca=os.environ["SSL_CERT_FILE"], endpoint=endpoints.api_endpoint) as other:
        with pytest.raises(ControlCertificateRejected):
            await other.open()


async def test_a_web_proxy(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy_server() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        async with Client() as proxied:
            opened = await proxied.open()
            await proxied.describe(opened.tunnel_id)
    assert len(proxy.requests) == 1
    del client
