"""A client of MQTT 3.1.1 brokers that publishes or subscribes to one topic, and no more.

May import :mod:`tailrace.link` (the way through the network only), :mod:`tailrace.common` and
:mod:`tailrace.errors`; knows nothing of tunnels, nor of what is published.
"""
