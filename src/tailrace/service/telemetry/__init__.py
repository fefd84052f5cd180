"""What the service tells about itself: counters, metrics, audit log, logs.

May not decide anything.
"""
