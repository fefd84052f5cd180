"""The service's certificates: its own authority, or those it was given.

May not hold tunnels or links.
"""
