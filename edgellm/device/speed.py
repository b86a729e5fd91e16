"""How fast a model writes: each token reads the weights once, and the cache for each head.

seconds of a token = bytes that are read / bytes that are read a second + layers * `LAYER`

Where several heads share their keys and values, memory is read once, but kernels go over them for
each head, and are no faster for that.

What is read a second is what llama.cpp's kernels reach for weights of that size, which is measured,
or a share of what the memory gives.
"""

from __future__ import annotations

from edgellm.device.bandwidth import Bandwidth
from edgellm.device.fit import Needs
from edgellm.device.memory import LIMIT, Runtime, cache_bytes, cached_layers

__all__ = ["cache_read", "expected_speed", "tokens_per_second", "weights_read"]

# Matrices of which a token reads one row alone, in GGUF files and in folders.
_LOOKED_UP = (
    "token_embd",
    "per_layer_token_embd",
    "position_embd",
    "token_types",
    "embed_tokens",
    "embed_tokens_per_layer",
    "wte",
    "wpe",
)
# Of the bandwidth, what kernels of quantized weights reach where nobody measured it.
USUAL_SHARE = 0.6
# Seconds of a layer in which nothing is read: some twenty operations for which threads wait for one
# another. Measured on SmolLM2-135M, Gemma 3 270M and stories15M (docs/measurements.md).
LAYER = 25e-6
_OUTPUTS = ("output.weight", "lm_head.weight")


def weights_read(needs: Needs) -> int:
    """Give the bytes of weights that are read for each token.

    Left out are the token embeddings, unless the same matrix gives the logits, and the experts that
    a token does not use.
    """
    metadata, tensors = needs.metadata, needs.tensors
    prefix = metadata.get("general.architecture")
    used, of = (metadata.get(f"{prefix}.expert{key}_count") for key in ("_used", ""))
    share = 1.0
    if type(used) is int and type(of) is int and 0 < used <= of:
        share = used / of
    tied = not any(name.endswith(_OUTPUTS) and "attn" not in name for name in tensors)
    total = 0.0
    for name, size in tensors.items():
        words = name.split(".")
        looked_up = next((word for word in words if word in _LOOKED_UP), None)
        if looked_up in ("token_embd", "embed_tokens", "wte") and tied:
            total += size
        elif looked_up is None:
            total += size * share if _is_expert(name) else size
    return round(total)


def cache_read(needs: Needs, depth: int, cache: str = "f16") -> int:
    """Give the bytes of keys, values and states that are read for a token behind `depth` others."""
    layers = cached_layers(needs.metadata)
    if not layers or depth < 1:
        return 0
    total = 0
    for layer in layers:
        seen = min(depth, layer.window or depth)
        # bytes of 256 cells, so that no rounding comes in
        each = cache_bytes((layer,), Runtime(256, cache)) - layer.state
        total += each * seen // 256 + layer.state
    return total


def tokens_per_second(read: int, rate: float, layers: int = 0) -> float:
    """Estimate the speed of generation.

    Args:
        read: bytes that are read for a token: `weights_read` and `cache_read`.
        rate: bytes that are read a second.
        layers: of the model.
    """
    return 1 / (read / rate + layers * LAYER)


def expected_speed(needs: Needs, depth: int, bandwidth: Bandwidth, cache: str = "f16") -> float:
    """Estimate the tokens that a model writes a second behind `depth` others.

    Args:
        needs: the model.
        depth: tokens in the context.
        bandwidth: of the device.
        cache: type of keys and values.
    """
    weights = weights_read(needs)
    read = weights + round(_heads_that_share(needs) * cache_read(needs, depth, cache))
    rate = bandwidth.kernel_at(weights) or USUAL_SHARE * bandwidth.bytes_per_s
    return tokens_per_second(read, rate, len(cached_layers(needs.metadata) or ()))


def _heads_that_share(needs: Needs) -> float:
    """Give how many heads of queries there are for each of keys; 1 if that is not known."""
    prefix = f"{needs.metadata.get('general.architecture')}.attention.head_count"
    heads, keys = needs.metadata.get(prefix), needs.metadata.get(f"{prefix}_kv")
    if type(heads) is int and type(keys) is int and 0 < keys <= heads < LIMIT:
        return heads / keys
    return 1.0


def _is_expert(name: str) -> bool:
    return "_exps." in name or ".experts." in name or ".switch_mlp." in name
