"""What the tests of the documents share."""

from __future__ import annotations

from support.plugins.fixtures import service, session_service

__all__ = ["service", "session_service"]
