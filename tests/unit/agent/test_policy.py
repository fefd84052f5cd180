"""What a broker has to allow, as the broker takes it."""

from __future__ import annotations

import json

import pytest

from tailrace.agent.policy import aws_policy, mosquitto_acl, region_of_endpoint

TOPIC = "$aws/things/pump-7/tunnels/notify"


def test_the_three_statements_of_aws() -> None:
    policy = json.loads(aws_policy("eu-west-1", "123456789012", "pump-7", TOPIC))
    arn = "arn:aws:iot:eu-west-1:123456789012"
    assert policy["Version"] == "2012-10-17"
    assert policy["Statement"] == [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{arn}:client/pump-7"},
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{arn}:topicfilter/{TOPIC}"},
        {"Effect": "Allow", "Action": "iot:Receive", "Resource": f"{arn}:topic/{TOPIC}"},
    ]


@pytest.mark.parametrize(
    ("region", "beginning"),
    [
        ("cn-north-1", "arn:aws-cn:iot:cn-north-1:ACCOUNT-ID:"),
        ("us-gov-west-1", "arn:aws-us-gov:iot:us-gov-west-1:ACCOUNT-ID:"),
        (None, "arn:aws:iot:REGION:ACCOUNT-ID:"),
    ],
)
def test_what_is_not_known_is_left_open(region: str | None, beginning: str) -> None:
    policy = json.loads(aws_policy(region, None, "pump-7", TOPIC))
    assert all(each["Resource"].startswith(beginning) for each in policy["Statement"])


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("a1b2c3-ats.iot.eu-west-1.amazonaws.com", "eu-west-1"),
        ("A1B2C3-ATS.iot.EU-WEST-1.amazonaws.com.", "eu-west-1"),
        ("a1.ats.iot.cn-north-1.amazonaws.com.cn", None),
        ("a1.iot.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("mqtt.example", None),
    ],
)
def test_the_region_of_an_endpoint(host: str, region: str | None) -> None:
    assert region_of_endpoint(host) == region


def test_lines_for_mosquitto() -> None:
    assert mosquitto_acl("pump-7", TOPIC) == f"user pump-7\ntopic read {TOPIC}"
