"""The columns of a run, in the order of the tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .base import Contender
from .direct import Direct
from .nginx import Nginx
from .openssh import OpenSSH
from .reference import Reference
from .tailrace import Tailrace, parse_variant

__all__ = ["NAMES", "PICOWS", "WEBSOCKETS", "all_contenders"]

PICOWS: Final = "picows"
WEBSOCKETS: Final = "websockets"

NAMES: Final = (PICOWS, WEBSOCKETS, Nginx.name, OpenSSH.name, Reference.name, Direct.name)


def all_contenders(variants: Iterable[str] = ()) -> list[Contender]:
    """Return every contender, those from ``--variant`` behind tailrace's own two.

    Raises:
        BenchError: a variant is not understood.
    """
    tailrace = str(Path(sys.executable).parent / "tailrace")
    return [
        Tailrace(PICOWS, ["--link", "picows"], "tailrace with the picows link"),
        Tailrace(WEBSOCKETS, ["--link", "websockets"], "tailrace with the websockets link"),
        *(parse_variant(text) for text in variants),
        Nginx(),
        OpenSSH(),
        Reference(tailrace),
        Direct(),
    ]
