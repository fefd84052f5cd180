"""The tunneling service: control API, tunnels and tokens, store, relay.

May not hold sessions, links or local proxies: it is no end of a tunnel.
"""
