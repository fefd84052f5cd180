from support.plugins.fixtures import service, session_service

__all__ = ["service", "session_service"]
