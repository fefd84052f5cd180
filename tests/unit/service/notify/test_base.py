"""What a thing gets to read."""

import json

from tailrace.common.secret import Secret
from tailrace.service.notify.base import Notification


def test_the_payload() -> None:
    notification = Notification(
        "t1", "AK", "lamp", "t/lamp", Secret("token"), "eu-west-1", ("SSH", "VNC"), 9.0
    )
    assert json.loads(notification.payload()) == {
        "clientAccessToken": "token",
        "clientMode": "destination",
        "region": "eu-west-1",
        "services": ["SSH", "VNC"],
        "tunnelId": "t1",
        "expiresAt": 9,
        "tokenId": Secret("token").digest[:16],
    }


def test_the_token_does_not_show() -> None:
    assert "token-text" not in repr(
        Notification("t", "AK", "x", "t/x", Secret("token-text"), "r", (), 0.0)
    )
