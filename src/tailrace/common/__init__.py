"""What every room may use: secrets, files, the event loop, network errors in words.

May import nothing of this package but :mod:`tailrace.errors`.
"""
