"""The HTTP that comes before a WebSocket: bytes in, responses out.

May not touch a socket or a clock.
"""
