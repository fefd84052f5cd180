"""The demonstration: a service, two real local proxies and real applications on one machine.

Uses the installed commands the way a person would; stands beside the cli.
"""
