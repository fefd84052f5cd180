"""Notifications and kept tunnels for tests of the device agent."""

from __future__ import annotations

import json
import time
from typing import Any

from support.tunnel.tunnels import Tunnel
from tailrace.agent.notification import Notification
from tailrace.agent.state import KeptTunnel
from tailrace.common.secret import Secret
from tailrace.wire import Side

__all__ = ["kept_of", "payload", "payload_of", "rotated"]


def payload(token: str, *services: str, **changes: Any) -> bytes:
    """Return a notification as AWS sends it; ``changes`` of ``None`` leave a key out."""
    document = {
        "clientAccessToken": token,
        "clientMode": "destination",
        "region": "us-east-1",
        "services": list(services or ["SSH"]),
    }
    return json.dumps({k: v for k, v in (document | changes).items() if v is not None}).encode()


def payload_of(tunnel: Tunnel, **changes: Any) -> bytes:
    """Return the notification of an open tunnel."""
    return payload(tunnel.tokens[Side.DESTINATION].reveal(), *tunnel.services, **changes)


def kept_of(tunnel: Tunnel, token: Secret | None = None, **changes: Any) -> KeptTunnel:
    """Return what an agent keeps of an open tunnel."""
    notification = Notification(
        token or tunnel.tokens[Side.DESTINATION], "us-east-1", tunnel.services, **changes
    )
    # The service takes a client token for one tunnel only.
    return KeptTunnel(notification, Secret(tunnel.tunnel_id), time.time())


def rotated(tunnel: Tunnel, side: Side = Side.DESTINATION) -> Secret:
    """Rotate the token of a side, blocking; return the new one."""
    parameters = {"tunnelId": tunnel.tunnel_id, "clientMode": side.name}
    answer = tunnel.control.call("RotateTunnelAccessToken", parameters)
    return Secret(answer[f"{side.value}AccessToken"])
