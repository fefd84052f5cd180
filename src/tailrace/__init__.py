"""AWS IoT Secure Tunneling in Python: local proxy, service and device agent.

The names of this package are loaded when they are first used, so that importing it costs nothing.
"""

TYPE_CHECKING = False
"""As ``typing`` has it, whose import takes longer than all of this."""
if TYPE_CHECKING:
    from .service.config import Endpoints
    from .service.limits import Limits
    from .service.service import Service

__version__ = "0.1.0"

__all__ = ["Endpoints", "Limits", "Service", "__version__"]

_HOMES = {
    "Endpoints": ".service.config",
    "Limits": ".service.limits",
    "Service": ".service.service",
}
"""Public name -> the module that has it."""


if not TYPE_CHECKING:
    # A type checker would take any name for one of the package.
    def __getattr__(name: str) -> object:
        if name in _HOMES:
            from importlib import import_module

            value: object = getattr(import_module(_HOMES[name], __name__), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
