"""What serves the connections of a service at a destination, as programs write it."""

from __future__ import annotations

from typing import Final, TypeAlias

from ..common.addresses import (
    AddressError,
    LocalAddress,
    TCPAddress,
    UnixAddress,
    parse_local_address,
    refuse_url,
)
from ..errors import ConfigurationError
from ..localproxy.routes import LocalService, SocketFactory, StreamHandler

__all__ = ["Application", "local_service"]

Application: TypeAlias = "str | int | LocalAddress | StreamHandler"
"""What serves the connections of a service at a destination.

``"HOST:PORT"``, ``"[IPV6]:PORT"`` or ``"unix:PATH"``; a :class:`TCPAddress` or a
:class:`UnixAddress`; a port of this machine, 1 to 65535; or
``async def handler(reader, writer)``, which is called with asyncio streams for each connection.

Example: ``{"SSH": 22, "HTTP": "camera.local:80", "CMD": handler}``
"""

_MAX_PORT: Final = 65_535
_KINDS: Final = (TCPAddress, UnixAddress, SocketFactory)


def local_service(application: Application | SocketFactory) -> LocalService:
    """Return what the engine knows an application as.

    Raises:
        ConfigurationError: the text or the port is not valid.
    """
    if isinstance(application, int):
        application = TCPAddress("", application)
    if isinstance(application, TCPAddress) and not 1 <= application.port <= _MAX_PORT:
        raise ConfigurationError(f"port {application.port} is not in 1..{_MAX_PORT}")
    if not isinstance(application, str):
        if not (isinstance(application, _KINDS) or callable(application)):
            raise ConfigurationError(
                f"{application!r} is neither an address nor a port nor a handler"
            )
        return application
    refuse_url(application)
    try:
        return parse_local_address(application)
    except AddressError as error:
        raise ConfigurationError(
            f"{error}; write HOST:PORT, [IPV6]:PORT, PORT or unix:PATH"
        ) from None
