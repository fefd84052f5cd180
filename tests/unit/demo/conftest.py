from support.processes.demo import stage

__all__ = ["stage"]
