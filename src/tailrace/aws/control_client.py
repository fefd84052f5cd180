"""The control API for code without an event loop: one call, one loop, one connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .control_api import ControlAPI, Document
from .credentials import Credentials

__all__ = ["ControlClient"]


class ControlClient:
    """Calls operations of one endpoint directly, and each of them once.

    The arguments, and what is raised, are those of :class:`ControlAPI`.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Credentials,
        ca_file: Path | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._api = ControlAPI(
            endpoint, region, credentials, ca_file, timeout=timeout, attempts=1, environment={}
        )
        self._turn = threading.Lock()

    def call(self, operation: str, parameters: Mapping[str, Any]) -> Document:
        """Call one operation and return what it returns.

        Raises:
            ControlError: as :meth:`ControlAPI.call`.
        """

        async def call() -> Document:
            try:
                return await self._api.call(operation, parameters)
            finally:
                await self._api.close()

        # In a thread: that of the caller may run a loop, which then waits.
        with self._turn, ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, call()).result()
