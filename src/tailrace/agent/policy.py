"""What a broker has to allow an agent, in the form that the broker takes; pure."""

from __future__ import annotations

import json
import re
from typing import Final

__all__ = ["ACCOUNT_PLACE", "aws_policy", "mosquitto_acl", "region_of_endpoint"]

ACCOUNT_PLACE: Final = "ACCOUNT-ID"
"""Stands where the number of the AWS account belongs, which a device does not know."""

_AWS_HOST: Final = re.compile(
    r"[a-z0-9-]+\.iot\.(?P<region>[a-z0-9-]{1,64})\.amazonaws\.com(\.cn)?\.?"
)
_PARTITIONS: Final = (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov"))


def region_of_endpoint(host: str) -> str | None:
    """Return the region of an endpoint of AWS IoT Core, ``None`` if its name does not tell."""
    match = _AWS_HOST.fullmatch(host.lower())
    return None if match is None else match["region"]


def aws_policy(region: str | None, account: str | None, client_id: str, topic: str) -> str:
    """Return the policy of AWS IoT Core that an agent needs, in JSON.

    To subscribe, a policy allows a topic *filter*; to receive, a *topic* (AWS IoT developer guide,
    "AWS IoT Core policy resources").
    """
    region = region or "REGION"
    partition = next((name for prefix, name in _PARTITIONS if region.startswith(prefix)), "aws")
    arn = f"arn:{partition}:iot:{region}:{account or ACCOUNT_PLACE}"
    statements = [
        {"Effect": "Allow", "Action": f"iot:{action}", "Resource": f"{arn}:{resource}"}
        for action, resource in (
            ("Connect", f"client/{client_id}"),
            ("Subscribe", f"topicfilter/{topic}"),
            ("Receive", f"topic/{topic}"),
        )
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)


def mosquitto_acl(user: str, topic: str) -> str:
    """Return the lines of mosquitto's ``acl_file`` that an agent needs."""
    return f"user {user}\ntopic read {topic}"
