"""TLS over a connected socket."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from ..endpoint import NetworkEndpoint
from .aiofastnet_compat import LoopView, fast_transports
from .context import Trust
from .failures import tls_failure, tls_timeout

__all__ = ["HIGH_WATER", "LOW_WATER", "SHUTDOWN_TIMEOUT", "close_transport", "start_tls"]

HIGH_WATER: Final = 256 * 1024
LOW_WATER: Final = 64 * 1024
"""Bytes in a link's write buffer at which writing pauses, and resumes."""

SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that flushing and the TLS closing may take once a transport is told to close."""

_TLS_BUFFER: Final = 8 * (16 * 1024 + 64)
"""Bytes of ciphertext for one system call: 8 full TLS records; more made nothing faster."""

_HANDSHAKE_ERRORS: Final = (OSError, RuntimeError, MemoryError)
"""What TLS libraries raise because of the other side, the network or this machine."""


async def start_tls(
    sock: socket.socket, endpoint: NetworkEndpoint, trust: Trust, protocol: asyncio.Protocol
) -> asyncio.Transport:
    """Return a TLS transport over a connected socket, which it owns from now on.

    aiofastnet's transports are used where they are installed, the loop's own elsewhere.

    Args:
        endpoint: tells name, patience and, for error texts, the address of the server.
        protocol: of the transport.

    Raises:
        TLSFailed: the handshake failed, or took longer than the endpoint allows.
    """
    loop = asyncio.get_running_loop()
    fast = fast_transports()
    view = LoopView(loop)
    options: dict[str, Any] = {
        "sock": sock,
        "ssl": trust.context,
        "server_hostname": endpoint.server_name,
        # Later than our own timeout, which has the better error text.
        "ssl_handshake_timeout": endpoint.connect_timeout + 1,
        "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
    }
    try:
        async with asyncio.timeout(endpoint.connect_timeout):
            if fast is None:
                transport, _ = await loop.create_connection(lambda: protocol, **options)
            else:
                transport, _ = await fast.create_connection(
                    view,
                    lambda: protocol,
                    ssl_incoming_bio_size=_TLS_BUFFER,
                    ssl_outgoing_bio_size=_TLS_BUFFER,
                    **options,
                )
    except TimeoutError:
        await _close(sock)
        raise tls_timeout(endpoint) from None
    except _HANDSHAKE_ERRORS as error:
        presented = view.presented_certificates()
        await _close(sock)
        raise tls_failure(error, endpoint, trust.description, presented) from None
    except BaseException:
        loop.call_soon(sock.close)
        raise
    view.handshake_done()
    transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
    return transport


async def _close(sock: socket.socket) -> None:
    """Close the socket of a transport that failed, which closes in a turn of the loop of its own.

    uvloop's has the socket's descriptor open until then.
    """
    asyncio.get_running_loop().call_soon(sock.close)
    await asyncio.sleep(0)


def close_transport(transport: asyncio.BaseTransport) -> None:
    """Close a transport that is not closing already.

    Closed twice, asyncio's own TLS transport cannot be aborted any more: up to Python 3.11.6
    that raises AttributeError, later it does nothing.
    """
    if not transport.is_closing():
        transport.close()
