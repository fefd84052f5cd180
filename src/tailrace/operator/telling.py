"""What a command tells ``tailrace status`` of the one tunnel that it uses."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..control.documents import tunnel_document
from ..control.server import told
from ..library import SourceTunnel

__all__ = ["tunnel_told"]


def tunnel_told(
    kind: str, tunnel: SourceTunnel, thing: str | None = None
) -> AbstractAsyncContextManager[None]:
    """Tell of a tunnel that is entered, for the body.

    Args:
        kind: the command.
        thing: whose tunnel it is, if that is known.
    """

    def details() -> dict[str, Any]:
        return {
            "summary": f"to {thing}" if thing else "",
            "tunnels": [tunnel_document(tunnel.tunnel_id or "", tunnel.status())],
        }

    return told(kind, details, os.environ)
