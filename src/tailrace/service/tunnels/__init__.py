"""Tunnels and tokens: their records, their rules and where they are kept.

May not hold HTTP, WebSocket or links.
"""
