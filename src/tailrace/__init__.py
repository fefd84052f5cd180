"""AWS IoT Secure Tunneling in Python: local proxy, service and device agent."""

__version__ = "0.1.0"

__all__ = ["__version__"]
