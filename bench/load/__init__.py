"""The load generators: processes of their own, the same for every contender.

One program, ``python -m bench.load``, takes JSON commands on standard input and gives
one JSON line for each. Its processes are the clients, the applications, the slow link
and the idle proxies of a measurement. They use nothing of tailrace.
"""
