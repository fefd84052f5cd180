"""What tests of packages get: a service."""

from __future__ import annotations

from support.plugins.fixtures import service, session_service

__all__ = ["service", "session_service"]
