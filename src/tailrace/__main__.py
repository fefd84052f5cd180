"""``python -m tailrace`` is the command ``tailrace``."""

from __future__ import annotations

import sys

from .cli.tailrace import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
