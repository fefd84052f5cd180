from support.plugins.fixtures import loop, service, session_service

__all__ = ["loop", "service", "session_service"]
