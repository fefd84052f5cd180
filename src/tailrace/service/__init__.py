"""The tunneling service: control API, tunnels and tokens, store, relay.

May import :mod:`tailrace.wire` and the top-level leaf modules; knows nothing of
sessions, links or local proxies.
"""
