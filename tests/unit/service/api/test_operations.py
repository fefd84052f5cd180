"""Operations through boto3 against a running service."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from websockets.exceptions import InvalidStatus

from support.service import api, config, dial, running
from tailrace.service.tunneling_service import TunnelingService
from tailrace.wire import Message, MessageType


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[TunnelingService]:
    async with running(config(tmp_path / "state")) as service:
        yield service


@pytest.fixture
async def client(service: TunnelingService) -> AsyncIterator["Client"]:
    client = Client(api(service.endpoints))
    yield client
    client.boto.close()


class Client:
    """boto3 from within an event loop."""

    def __init__(self, boto: Any) -> None:
        self.boto = boto

    async def call(self, operation: str, **parameters: Any) -> Any:
        return await asyncio.to_thread(getattr(self.boto, operation), **parameters)

    async def error(self, operation: str, **parameters: Any) -> ClientError:
        with pytest.raises(ClientError) as caught:
            await self.call(operation, **parameters)
        return caught.value


async def test_open_and_describe(client: Client) -> None:
    opened = await client.call(
        "open_tunnel",
        description="caf\u00e9",
        tags=[{"key": "k", "value": "v"}, {"key": "k", "value": "last"}],
        destinationConfig={"thingName": "thing", "services": ["SSH", "WEB", "SSH"]},
        timeoutConfig={"maxLifetimeTimeoutMinutes": 30},
    )
    assert opened["tunnelArn"].endswith(f":000000000000:tunnel/{opened['tunnelId']}")
    assert opened["sourceAccessToken"] != opened["destinationAccessToken"]
    tunnel = (await client.call("describe_tunnel", tunnelId=opened["tunnelId"]))["tunnel"]
    assert tunnel["tunnelArn"] == opened["tunnelArn"]
    assert tunnel["status"] == "OPEN"
    assert tunnel["description"] == "caf\u00e9"
    assert tunnel["destinationConfig"] == {"thingName": "thing", "services": ["SSH", "WEB"]}
    assert tunnel["timeoutConfig"] == {"maxLifetimeTimeoutMinutes": 30}
    assert tunnel["tags"] == [{"key": "k", "value": "last"}]
    for side in ("source", "destination"):
        state = tunnel[f"{side}ConnectionState"]
        assert state == {"status": "DISCONNECTED", "lastUpdatedAt": tunnel["createdAt"]}
    assert tunnel["lastUpdatedAt"] == tunnel["createdAt"]


async def test_the_least_there_is(client: Client) -> None:
    opened = await client.call("open_tunnel")
    tunnel = (await client.call("describe_tunnel", tunnelId=opened["tunnelId"]))["tunnel"]
    assert tunnel["timeoutConfig"] == {"maxLifetimeTimeoutMinutes": 720}
    assert not {"description", "destinationConfig", "tags"} & set(tunnel)


async def test_listing_newest_first_in_pages(client: Client) -> None:
    ids = []
    for number in range(5):
        thing = {"thingName": f"thing{number % 2}", "services": ["S"]}
        opened = await client.call("open_tunnel", description=f"n{number}", destinationConfig=thing)
        ids.insert(0, opened["tunnelId"])
    found: list[str] = []
    more: dict[str, Any] = {}
    while True:
        page = await client.call("list_tunnels", maxResults=2, **more)
        found += [summary["tunnelId"] for summary in page["tunnelSummaries"]]
        if "nextToken" not in page:
            break
        more = {"nextToken": page["nextToken"]}
    assert found == ids
    page = await client.call("list_tunnels", thingName="thing1")
    assert [s["description"] for s in page["tunnelSummaries"]] == ["n3", "n1"]
    assert (await client.call("list_tunnels", thingName="none"))["tunnelSummaries"] == []


@pytest.mark.parametrize("token", ["abc", "YWJj", "===", "4pi6"])
async def test_foreign_page_tokens(client: Client, token: str) -> None:
    error = await client.error("list_tunnels", nextToken=token)
    assert error.response["Error"]["Code"] == "ValidationException"


async def test_closing(client: Client) -> None:
    tunnel_id = (await client.call("open_tunnel"))["tunnelId"]
    await client.call("close_tunnel", tunnelId=tunnel_id)
    await client.call("close_tunnel", tunnelId=tunnel_id)
    tunnel = (await client.call("describe_tunnel", tunnelId=tunnel_id))["tunnel"]
    assert tunnel["status"] == "CLOSED"
    assert tunnel["lastUpdatedAt"] > tunnel["createdAt"]
    await client.call("close_tunnel", tunnelId=tunnel_id, delete=True)
    assert (await client.call("list_tunnels"))["tunnelSummaries"] == []


async def test_closing_disconnects_both_sides(service: TunnelingService, client: Client) -> None:
    opened = await client.call("open_tunnel")
    async with (
        dial(service.endpoints, "source", opened["sourceAccessToken"]) as source,
        dial(service.endpoints, "destination", opened["destinationAccessToken"]) as destination,
    ):
        tunnel = (await client.call("describe_tunnel", tunnelId=opened["tunnelId"]))["tunnel"]
        assert tunnel["sourceConnectionState"]["status"] == "CONNECTED"
        assert tunnel["destinationConnectionState"]["status"] == "CONNECTED"
        await client.call("close_tunnel", tunnelId=opened["tunnelId"], delete=True)
        for peer in (source, destination):
            assert await peer.close_code() == (1000, "The tunnel was closed")


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("describe_tunnel", {}),
        ("close_tunnel", {}),
        ("rotate_tunnel_access_token", {"clientMode": "ALL"}),
    ],
)
async def test_unknown_tunnels(client: Client, operation: str, more: dict[str, str]) -> None:
    error = await client.error(operation, tunnelId="no-such-tunnel", **more)
    assert isinstance(error, client.boto.exceptions.ResourceNotFoundException)
    assert "no-such-tunnel" in error.response["Error"]["Message"]
    assert error.response["ResponseMetadata"]["RequestId"]


async def test_too_many_services(client: Client) -> None:
    services = [f"s{number}" for number in range(101)]
    error = await client.error("open_tunnel", destinationConfig={"services": services})
    assert isinstance(error, client.boto.exceptions.LimitExceededException)


async def test_what_boto3_lets_through_is_validated_here(client: Client) -> None:
    for parameters in (
        {"description": "tab\t"},
        {"timeoutConfig": {"maxLifetimeTimeoutMinutes": 721}},
        {"destinationConfig": {"services": ["a b"]}},
    ):
        error = await client.error("open_tunnel", **parameters)
        assert error.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("tag_resource", {"tags": [{"key": "k", "value": "v"}]}),
        ("untag_resource", {"tagKeys": []}),
        ("list_tags_for_resource", {}),
    ],
)
@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:iot:us-east-1:000000000000:tunnel/no-such-tunnel",
        "arn:aws:iot:us-east-1:000000000000:thing/x",
        "nonsense",
    ],
)
async def test_tags_of_nothing(
    client: Client, operation: str, more: dict[str, Any], arn: str
) -> None:
    error = await client.error(operation, resourceArn=arn, **more)
    assert isinstance(error, client.boto.exceptions.ResourceNotFoundException)


async def test_tags(client: Client) -> None:
    arn = (await client.call("open_tunnel", tags=[{"key": "a", "value": "1"}]))["tunnelArn"]

    async def tags() -> dict[str, str]:
        found = await client.call("list_tags_for_resource", resourceArn=arn)
        return {tag["key"]: tag["value"] for tag in found["tags"]}

    assert await tags() == {"a": "1"}
    more = [{"key": "a", "value": "2"}, {"key": "\u540d:1", "value": ""}]
    await client.call("tag_resource", resourceArn=arn, tags=more)
    assert await tags() == {"a": "2", "\u540d:1": ""}
    await client.call("untag_resource", resourceArn=arn, tagKeys=["a", "not there"])
    assert await tags() == {"\u540d:1": ""}
    await client.call("untag_resource", resourceArn=arn, tagKeys=["\u540d:1"])
    assert await tags() == {}
    full = [{"key": f"k{number}", "value": ""} for number in range(200)]
    await client.call("tag_resource", resourceArn=arn, tags=full)
    error = await client.error("tag_resource", resourceArn=arn, tags=[{"key": "more", "value": ""}])
    assert isinstance(error, client.boto.exceptions.LimitExceededException)
    for key in ("\u20ac", "a\n", "#"):
        wrong = [{"key": key, "value": ""}]
        error = await client.error("tag_resource", resourceArn=arn, tags=wrong)
        assert error.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize(
    ("mode", "keys"),
    [
        ("SOURCE", {"sourceAccessToken"}),
        ("DESTINATION", {"destinationAccessToken"}),
        ("ALL", {"sourceAccessToken", "destinationAccessToken"}),
    ],
)
async def test_rotation(
    service: TunnelingService, client: Client, mode: str, keys: set[str]
) -> None:
    opened = await client.call(
        "open_tunnel", timeoutConfig={"maxLifetimeTimeoutMinutes": 30}, description="d"
    )
    tunnel_id = opened["tunnelId"]
    before = service.queries.describe(tunnel_id)
    async with (
        dial(service.endpoints, "source", opened["sourceAccessToken"]) as source,
        dial(service.endpoints, "destination", opened["destinationAccessToken"]) as destination,
    ):
        await source.send(Message(MessageType.STREAM_START, 1, "", 1))
        await destination.recv()
        rotated = await client.call(
            "rotate_tunnel_access_token", tunnelId=tunnel_id, clientMode=mode
        )
        assert set(rotated) == {"tunnelArn", "ResponseMetadata"} | keys
        assert rotated["tunnelArn"] == opened["tunnelArn"]
        for peer, key in ((source, "sourceAccessToken"), (destination, "destinationAccessToken")):
            if key in keys:
                assert await peer.close_code() == (1008, "The access token was rotated")
                side = key.removesuffix("AccessToken")
                async with dial(service.endpoints, side, rotated[key]):
                    pass
                with pytest.raises(InvalidStatus) as caught:
                    async with dial(service.endpoints, side, opened[key]):
                        pass
                assert caught.value.response.status_code == 403
            else:
                # Its streams have ended, it has not.
                assert await peer.recv() == Message(MessageType.STREAM_RESET, 1, "", 1)
                await (await peer.socket.ping())
    after = service.queries.describe(tunnel_id)
    assert after.expires_at == before.expires_at
    assert after.last_updated_at > before.last_updated_at


async def test_rotation_to_another_destination(client: Client) -> None:
    opened = await client.call("open_tunnel", destinationConfig={"services": ["A"]})
    config = {"thingName": "thing", "services": ["B"]}
    request = {"tunnelId": opened["tunnelId"], "destinationConfig": config}
    error = await client.error("rotate_tunnel_access_token", clientMode="SOURCE", **request)
    assert error.response["Error"]["Code"] == "ValidationException"
    await client.call("rotate_tunnel_access_token", clientMode="ALL", **request)
    tunnel = (await client.call("describe_tunnel", tunnelId=opened["tunnelId"]))["tunnel"]
    assert tunnel["destinationConfig"] == config
    listed = await client.call("list_tunnels", thingName="thing")
    assert [s["tunnelId"] for s in listed["tunnelSummaries"]] == [opened["tunnelId"]]


async def test_closed_tunnels_cannot_be_rotated(client: Client) -> None:
    tunnel_id = (await client.call("open_tunnel"))["tunnelId"]
    await client.call("close_tunnel", tunnelId=tunnel_id)
    error = await client.error("rotate_tunnel_access_token", tunnelId=tunnel_id, clientMode="ALL")
    assert isinstance(error, client.boto.exceptions.ResourceNotFoundException)
    assert "closed" in error.response["Error"]["Message"]
