"""The command ``localproxy``: everything that makes it a drop-in for the C++ command.

Options, files, environment, log format, exit codes. :mod:`tailrace.localproxy` moves the bytes
and knows none of these.
"""
