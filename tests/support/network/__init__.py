"""Sockets, what is connected by them, and what may stand between two ends."""
