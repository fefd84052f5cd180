"""Local sockets <-> session: listeners, dialers, pumps and the ``LocalProxy`` itself.

May import :mod:`tailrace.link`, :mod:`tailrace.session`, :mod:`tailrace.wire` and the
top-level leaf modules; knows nothing of the service, the agent or argv.
"""
