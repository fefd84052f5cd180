"""``python -m bench.load``: one load generator, driven over standard input."""

import sys

from .worker import main

if __name__ == "__main__":
    sys.exit(main())
