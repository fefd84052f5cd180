"""What tests, benchmarks, fuzzing and the soak share; nothing here is a test.

=============  ==================================================================
``network``    ports, sockets, applications and clients, WebSocket frames, and
               what stands between two ends: faults, boxes, web proxies
``processes``  child processes, and real servers run as such
``service``    our service, in this process or one of its own, and its clients
``tunnel``     whole tunnels: a service and both proxies
``session``    playbooks, pairs and rules of sessions, strategies for messages
``oracles``    what outcomes are judged by
``plugins``    what pytest loads: leaks, event loops, scheduling, a virtual clock
``waiting``    how long to wait for something before a test counts as hung
=============  ==================================================================
"""
