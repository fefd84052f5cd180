"""The text of ``--allow``, parsed and printed. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ...common.addresses import LocalAddress, format_local_address
from ...errors import ConfigurationError
from ...localproxy.validation import RejectedInput
from ...wire import Side
from .addresses import parse_local_address
from .values import printable

__all__ = ["format_allow_list", "parse_allow_list"]


def parse_allow_list(text: str) -> tuple[LocalAddress, ...]:
    """Return the addresses of ``--allow``: ``ADDRESS[,ADDRESS...]``, as in ``-d``.

    Raises:
        ConfigurationError: an item is not an address, or there is none.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise ConfigurationError("--allow has no address; leave it out to allow the whole map")
    return tuple(map(_parse, items))


def _parse(item: str) -> LocalAddress:
    if "=" in item:
        raise ConfigurationError(
            f"--allow takes addresses without service ids, not '{printable(item)}'"
        )
    try:
        return parse_local_address(item, Side.DESTINATION)
    except RejectedInput as error:
        raise RejectedInput("allow", error.reason, f"--allow: {error}") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"--allow: {error}") from None


def format_allow_list(allowed: Iterable[LocalAddress]) -> str:
    """Return the text that :func:`parse_allow_list` understands as ``allowed``."""
    return ",".join(map(format_local_address, allowed))
