"""Readers of checkpoints: one tensor in memory at a time, every number of a header bounded."""
