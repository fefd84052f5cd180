"""A client of the control API that belongs to no event loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..aws.client import Client
from ..aws.control_api import ControlAPI, Document
from ..aws.credentials import Credentials
from ..common.secret import Secret
from ..service.config import Endpoints

__all__ = ["LooplessClient"]

_TIMEOUT = 30.0


class LooplessClient(Client):
    """A :class:`tailrace.Client` that keeps no connection between calls.

    So nothing has to be closed, and each call may be made in another event loop: in that of a
    test, whichever plugin runs it, or in one of ``asyncio.run``.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        key = Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key))
        place = endpoints.api_endpoint, endpoints.region, key, Path(endpoints.ca_file)
        super().__init__(
            endpoint=place[0], region=place[1], credentials=place[2], ca=place[3], timeout=_TIMEOUT
        )
        self.api = _ClosingAPI(*place, timeout=_TIMEOUT, environment={})


class _ClosingAPI(ControlAPI):
    async def call(self, operation: str, parameters: Mapping[str, Any]) -> Document:
        try:
            return await super().call(operation, parameters)
        finally:
            await self.close()
