"""Open tunnels, as the control API makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.service.process import ServiceProcess
from tailrace.aws import ControlClient
from tailrace.common.secret import Secret
from tailrace.localproxy.settings import ProxySettings
from tailrace.service.config import Endpoints, parse_address
from tailrace.wire import Side

__all__ = ["Tunnel", "open_tunnel", "tunnel_of"]


@dataclass(frozen=True)
class Tunnel:
    """An open tunnel."""

    endpoints: Endpoints
    control: ControlClient
    tunnel_id: str
    services: tuple[str, ...]
    tokens: Mapping[Side, Secret]

    def settings(self, side: Side, **changes: Any) -> ProxySettings:
        """Return the settings of a proxy in this process."""
        address = parse_address(self.endpoints.data_endpoint, "data")
        values: dict[str, Any] = {
            "side": side,
            "host": address.host,
            "port": address.port,
            "access_token": self.tokens[side],
            "capath": Path(self.endpoints.ca_dir),
            "bind_address": "127.0.0.1" if side is Side.SOURCE else "",
            "retry_delay": 0.1,
        }
        return ProxySettings(**(values | changes))

    def close(self) -> None:
        """Close the tunnel through the API, blocking."""
        self.control.call("CloseTunnel", {"tunnelId": self.tunnel_id})


def open_tunnel(
    endpoints: Endpoints, control: ControlClient, *services: str, thing: str = ""
) -> Tunnel:
    """Open a tunnel through the API, blocking."""
    wanted = {"services": list(services)} | ({"thingName": thing} if thing else {})
    parameters = {"destinationConfig": wanted} if services else {}
    answer = control.call("OpenTunnel", parameters)
    return Tunnel(
        endpoints,
        control,
        answer["tunnelId"],
        services,
        {side: Secret(answer[f"{side.value}AccessToken"]) for side in Side},
    )


@contextmanager
def tunnel_of(service: ServiceProcess, *services: str) -> Iterator[Tunnel]:
    """An open tunnel; the log of the service is printed when the block fails."""
    seen = len(service.process.log)
    try:
        yield open_tunnel(service.endpoints, service.control, *services)
    except BaseException:
        print("--- service ---", service.process.log[seen:], sep="\n")
        raise
