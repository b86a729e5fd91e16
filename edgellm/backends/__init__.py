"""What runs a model: one protocol, one row for each implementation."""
