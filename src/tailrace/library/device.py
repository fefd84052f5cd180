"""Waiting for the device: the service tells when it connects, or the control API is asked."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ..aws import Client, TunnelState
from ..errors import ControlError, CredentialsRefused, LinkError, TimedOut, TunnelClosed
from ..localproxy.status import PeerPresence
from .advice import with_advice
from .tunnel import SourceTunnel

__all__ = ["wait_for_device"]

_LOG = logging.getLogger("tailrace")

_FIRST_PAUSE: Final = 1.0
"""Seconds from one question to the next. AWS allows an account a few calls a second."""
_LONGEST_PAUSE: Final = 5.0
_GROWTH: Final = 1.5


async def wait_for_device(
    tunnel: SourceTunnel, client: Client, tunnel_id: str, timeout: float | None
) -> None:
    """Wait until the destination of a tunnel that was entered is connected.

    Args:
        client: asks the control API where the service does not tell. If the credentials do not
            allow it to, that is logged, and nothing is waited for.
        timeout: seconds to wait at most; ``None``: for ever.

    Raises:
        TimedOut: the device was not connected in time.
        TunnelClosed: the tunnel has ended.
        ControlError: the control API refused to tell, for another reason than the credentials.
    """
    inquiry = _Inquiry(client, tunnel_id)
    try:
        async with asyncio.timeout(timeout):
            await tunnel.wait_peer()
            if tunnel.status().peer is PeerPresence.UNTOLD:
                await inquiry.until_connected(tunnel)
    except TimeoutError:
        cause = f"; the control API was asked in vain: {inquiry.failure}" if inquiry.failure else ""
        raise with_advice(
            TimedOut(f"the device has not connected to the tunnel within {timeout:g} s{cause}"),
            "Check that the device is online, and that its agent serves these services",
        ) from inquiry.failure


class _Inquiry:
    """Questions to the control API whether the device of a tunnel is connected."""

    def __init__(self, client: Client, tunnel_id: str) -> None:
        self._client = client
        self._tunnel_id = tunnel_id
        self.failure: ControlError | LinkError | None = None
        """Why the last question was not answered, ``None`` if it was."""

    async def until_connected(self, tunnel: SourceTunnel) -> None:
        """Ask until the device is connected, less and less often."""
        pause = _FIRST_PAUSE
        while not await self._is_over():
            try:
                async with asyncio.timeout(pause) as waiting:
                    await tunnel.wait_closed()
            except TimeoutError:
                if not waiting.expired():
                    raise
                pause = min(pause * _GROWTH, _LONGEST_PAUSE)
            else:
                raise _closed()

    async def _is_over(self) -> bool:
        """Return whether there is nothing to wait for any more."""
        try:
            found = await self._client.describe(self._tunnel_id)
        except CredentialsRefused as error:
            _LOG.warning(
                "the device of tunnel %s is not waited for, as these credentials may not ask "
                "whether it is connected; allow them iot:DescribeTunnel: %s",
                self._tunnel_id,
                error,
            )
            return True
        except (ControlError, LinkError) as error:
            if not error.retryable:
                raise
            if self.failure is None:
                _LOG.warning(
                    "the control API does not tell whether the device of tunnel %s is connected; "
                    "asking again: %s",
                    self._tunnel_id,
                    error,
                )
            self.failure = error
            return False
        self.failure = None
        if found.state is not TunnelState.OPEN:
            raise _closed()
        return found.destination.is_connected


def _closed() -> TunnelClosed:
    return with_advice(
        TunnelClosed("the tunnel has ended while its device was waited for"), "Open a new tunnel"
    )
