"""Ways to serve: one module each, found by name or by dotted path."""
