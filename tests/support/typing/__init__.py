"""Programs that only a type checker reads: one that is right, one that is wrong."""
