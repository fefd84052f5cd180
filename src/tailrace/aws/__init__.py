"""AWS' conventions, from both sides: request signatures and a client of the control API.

May import :mod:`tailrace.common` and :mod:`tailrace.errors` only.
"""

from .client import ControlClient
from .credentials import Credentials

__all__ = ["ControlClient", "Credentials"]
