"""The way to the service through a web proxy: which proxy, and how to ask it.

May not hold WebSocket.
"""
