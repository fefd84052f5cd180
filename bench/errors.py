"""What can go wrong while measuring."""

from __future__ import annotations

__all__ = ["BenchError", "Unavailable"]


class BenchError(Exception):
    """A measurement failed: a process died, hung, or moved other bytes than it was given."""


class Unavailable(Exception):
    """Something needs a tool or a right that this machine does not give; the text says which."""
