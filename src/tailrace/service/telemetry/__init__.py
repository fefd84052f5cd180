"""What the service reports about itself: counters, metrics, audit log, logs.

May not decide anything.
"""
