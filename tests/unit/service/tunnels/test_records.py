"""The records of the store."""

from tailrace.service.tunnels.records import (
    ConnectionState,
    ConnectionStatus,
    TunnelRecord,
    TunnelStatus,
)
from tailrace.wire import Side


def test_connection_of_a_side() -> None:
    source = ConnectionState(ConnectionStatus.CONNECTED, 1.0)
    destination = ConnectionState(ConnectionStatus.DISCONNECTED, 2.0)
    tunnel = TunnelRecord("t", TunnelStatus.OPEN, 0, 0, 60, 1, source, destination)
    assert tunnel.connection(Side.SOURCE) is source
    assert tunnel.connection(Side.DESTINATION) is destination
