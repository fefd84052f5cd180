"""What ``tailrace doctor`` checks: the way to a tunneling service, and what a tunnel needs there.

Nothing is changed, and no token is spent, unless its user asks for a measurement.
"""
