"""Tokenizers in both layouts: tokenizer.json of Hugging Face, tokenizer.ggml keys of GGUF."""
