"""The commands ``localproxy`` and ``tailrace``: argv -> one call into a room below."""
