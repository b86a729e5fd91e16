"""Checkpoints in, checkpoints out: Hugging Face and GGUF; no running of models."""
