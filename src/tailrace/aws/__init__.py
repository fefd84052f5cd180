"""AWS' conventions, from both sides: request signatures and a client of the control API.

May import the top-level leaf modules only.
"""

from .client import ControlClient, ControlError
from .credentials import Credentials

__all__ = ["ControlClient", "ControlError", "Credentials"]
