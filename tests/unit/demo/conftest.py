from support.demo import stage

__all__ = ["stage"]
