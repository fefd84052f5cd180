"""Who may send how much, and when: send window, turns, receive buffers, token bucket.

Pure bookkeeping with the time as an argument, except for :mod:`.window_driver`, which gives
the send window a clock. Knows no sockets, messages or sessions.
"""
