"""``python -m bench.contenders.opentunnel READY_FILE COUNT SERVICE...`` prints tokens."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tailrace.aws import ControlClient, Credentials
from tailrace.common.secret import Secret

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Open tunnels and write a JSON list of pairs: source token, destination token."""
    ready = json.loads(Path(arguments[0]).read_text())
    client = ControlClient(
        ready["api_endpoint"],
        ready["region"],
        Credentials(ready["access_key_id"], Secret(ready["secret_access_key"])),
        Path(ready["ca_file"]),
    )
    parameters = {"destinationConfig": {"services": arguments[2:]}}

    def open_tunnel(_: int) -> tuple[str, str]:
        tunnel = client.call("OpenTunnel", parameters)
        return tunnel["sourceAccessToken"], tunnel["destinationAccessToken"]

    with ThreadPoolExecutor(4) as pool:
        json.dump(list(pool.map(open_tunnel, range(int(arguments[1])))), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
