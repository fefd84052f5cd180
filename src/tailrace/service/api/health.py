"""Health, readiness and metrics over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from ...common.exposition import CONTENT_TYPE, Exposition
from ..errors import StoreFailed
from ..tunnels.queries import TunnelQueries

__all__ = ["health_routes", "metrics_routes"]

_log = logging.getLogger(__name__)


def health_routes(queries: TunnelQueries, accepting: Callable[[], bool]) -> list[BaseRoute]:
    """Return ``/healthz`` (the process answers) and ``/readyz`` (the service works).

    A service is ready while it is ``accepting`` local proxies and can read its store.
    """

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        if not accepting():
            return PlainTextResponse("the service is stopping\n", 503)
        try:
            queries.usage()
        except StoreFailed as failed:
            _log.error("not ready: %s", failed)
            return PlainTextResponse("the store cannot be read\n", 503)
        return PlainTextResponse("ready\n")

    return [Route("/healthz", health), Route("/readyz", ready)]


def metrics_routes(metrics: Exposition) -> list[BaseRoute]:
    """Return ``/metrics``, in the text format of Prometheus."""

    async def show(_: Request) -> Response:
        return Response(metrics.render(), headers={"content-type": CONTENT_TYPE})

    return [Route("/metrics", show)]
