"""Writers of checkpoints: whole or not at all."""
