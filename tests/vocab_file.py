"""GGUF files that hold a vocabulary alone, which llama.cpp opens with `vocab_only`."""

from __future__ import annotations

from pathlib import Path

import gguf

from edgellm_converters.architectures.base import Keys
from edgellm_converters.checkpoints.gguf_values import StoredType

SIZES = ("context_length", "embedding_length", "block_count", "feed_forward_length")


def write_vocabulary(path: Path, keys: Keys, architecture: str = "llama") -> Path:
    """Write the keys of a tokenizer with what llama.cpp asks of any model, and no tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    for name in SIZES:
        writer.add_uint32(f"{architecture}.{name}", 8)
    writer.add_uint32(f"{architecture}.attention.head_count", 1)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    for key, (kind, value) in keys.items():
        assert isinstance(kind, StoredType)
        element = None if kind.element is None else gguf.GGUFValueType(kind.element)
        writer.add_key_value(key, value, gguf.GGUFValueType(kind.kind), sub_type=element)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
