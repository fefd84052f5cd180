from support.plugins.fixtures import loop

__all__ = ["loop"]
