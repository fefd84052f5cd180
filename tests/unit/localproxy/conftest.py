from support.fixtures import service

__all__ = ["service"]
