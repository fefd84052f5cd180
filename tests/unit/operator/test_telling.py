from __future__ import annotations

from pathlib import Path

import pytest

import tailrace
from support.service import ServiceProcess
from support.tunnel import tunnel_of
from tailrace.operator.processes import read_processes
from tailrace.operator.telling import tunnel_told
from tailrace.wire import Side


@pytest.mark.parametrize("thing", ["pump-7", None])
async def test_a_tunnel_is_told(
    service: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thing: str | None
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with tunnel_of(service, "SSH") as opened:
        token, endpoint = opened.tokens[Side.SOURCE], opened.endpoints.data_endpoint
        ca = opened.endpoints.ca_file
        async with (
            tailrace.Tunnel.source(token, endpoint=endpoint, ca=ca) as tunnel,
            tunnel_told("connect", tunnel, thing),
        ):
            (found,) = await read_processes([tmp_path / "tailrace"])
    assert found.kind == "connect"
    assert found.document is not None
    assert found.document["summary"] == ("to pump-7" if thing else "")
    assert found.document["tunnels"][0]["services"] == {"SSH": 0}
