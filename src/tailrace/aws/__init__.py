"""AWS' conventions, from both sides: request signatures and a client of the control API.

May import :mod:`tailrace.common` and :mod:`tailrace.errors` only.
"""

from .client import ControlClient, Dial, dial_directly
from .credentials import Credentials
from .profile import Profile, aws_endpoint, read_profile

__all__ = [
    "ControlClient",
    "Credentials",
    "Dial",
    "Profile",
    "aws_endpoint",
    "dial_directly",
    "read_profile",
]
