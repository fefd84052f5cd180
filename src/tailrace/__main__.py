"""``python -m tailrace`` is the command ``tailrace``."""

import sys

from .cli.tailrace import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
