"""Sessions without a network: what goes in and what must come out."""
