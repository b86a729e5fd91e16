"""Sizes of models that people ask about, to say what would fit before one is downloaded.

The shapes are those of Llama 3.2 1B and 3B and Llama 3.1 8B (their config.json, Meta); the types
those of Q4_K_M: 4 bits for most matrices, more for some, 4.85 bits a weight in all.
"""

from __future__ import annotations

from edgellm.device.fit import Needs

__all__ = ["TYPICAL"]

BITS = 4.85
VOCABULARY = 128_256


def _llama(layers: int, width: int, inner: int, heads: int, *, tied: bool) -> Needs:
    head = 128 if width > 2048 else 64
    matrix = width * (2 * heads + 2 * 8) * head + 3 * width * inner
    weights = {f"blk.{at}.weight": matrix for at in range(layers)}
    weights["token_embd.weight"] = VOCABULARY * width
    if not tied:
        weights["output.weight"] = VOCABULARY * width
    metadata: dict[str, object] = {
        "general.architecture": "llama",
        "llama.block_count": layers,
        "llama.context_length": 131_072,
        "llama.embedding_length": width,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": 8,
        "llama.attention.key_length": head,
        "llama.attention.value_length": head,
        "llama.vocab_size": VOCABULARY,
    }
    return Needs(metadata, {name: round(count * BITS / 8) for name, count in weights.items()})


TYPICAL = {
    "1B at 4 bits": _llama(16, 2048, 8192, 32, tied=True),
    "3B at 4 bits": _llama(28, 3072, 8192, 24, tied=True),
    "8B at 4 bits": _llama(32, 4096, 14336, 32, tied=False),
}
"""By a name for people."""
