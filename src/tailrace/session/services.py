"""Agree on the service ids of a tunnel (guide V3, step 1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..errors import ServiceIdMismatch

__all__ = ["MAX_SERVICE_ID", "match_service_ids"]

MAX_SERVICE_ID: Final = 128
"""Bytes of one service id (OpenTunnel, ``destinationConfig``)."""


def _listing(service_ids: Iterable[str]) -> str:
    return "[" + ", ".join(service_ids) + "]"


def match_service_ids(
    configured: tuple[str, ...] | None, announced: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the ids to use, given those configured here and those the service announced.

    ``configured`` is ``None`` when any id will do, and ``("",)`` for a lone port
    without an id, which takes the one id of the tunnel. A tunnel without service
    ids gives ``("",)``.

    Raises:
        ServiceIdMismatch: the two sets differ; the text lists both.
    """
    ids = tuple(dict.fromkeys(announced))
    if configured is None:
        return ids or ("",)
    if configured == ("",):
        if len(ids) <= 1:
            return ids or ("",)
        raise ServiceIdMismatch(
            f"the tunnel has the services {_listing(ids)}, but one address without a service id "
            f"was given: name each one, as in {ids[0]}=PORT,{ids[1]}=PORT",
            setting="services",
            service_ids=ids,
        )
    if set(configured) != set(ids):
        raise ServiceIdMismatch(
            f"the tunnel has {f'the services {_listing(ids)}' if ids else 'no services'}, "
            f"you gave {_listing(configured)}: both lists must be equal",
            setting="services",
            service_ids=ids,
        )
    return ids
