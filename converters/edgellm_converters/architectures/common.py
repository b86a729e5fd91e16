"""What the decoder families share: sizes from config.json or metadata, and the keys for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgellm_converters.architectures.base import F32, TEXT, U32, Decoder, Keys, Sizes
from edgellm_converters.architectures.rope import SCALING_KEYS
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError

__all__ = [
    "LAYER_NORM",
    "RMS",
    "STORED_KEYS",
    "Norm",
    "common_config",
    "common_keys",
    "read_sizes",
    "read_stored_sizes",
    "shortest",
]

MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
# Twice the largest vocabularies and far beyond every head in use: what is computed from them stays
# small, whatever the file says.
MAX_VOCABULARY = 1 << 19
MAX_HEAD = 1 << 16


STORED_KEYS = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
    *("attention.head_count", "attention.head_count_kv"),
    *("attention.key_length", "attention.value_length", "rope.freq_base", *SCALING_KEYS),
)
"""The keys of GGUF metadata that every family reads."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A kind of norm by the keys of its epsilon, and the epsilon that config.json may leave out."""

    config: str
    gguf: str
    epsilon: float


RMS = Norm("rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-6)
LAYER_NORM = Norm("layer_norm_eps", "attention.layer_norm_epsilon", 1e-5)


def read_sizes(
    config: Values,
    norm: Norm = RMS,
    head_dim: int = 0,
    names: Mapping[str, str] = MappingProxyType({}),
    feed_factor: int = 0,
    context: int = 0,
) -> Sizes:
    """Read the sizes from config.json.

    Args:
        config: config.json.
        norm: the kind of norm, for the key of its epsilon.
        head_dim: the size of a head where the file names none; 0 for that of hidden size by heads.
        names: the family's own keys, by the usual ones.
        feed_factor: the inner size as a multiple of the hidden one where the file names none.
        context: the number of positions where the file names none; 0 if it has to.

    Raises:
        ConfigError: a value is missing, of a wrong kind, or does not go with another.
    """

    def read(key: str, default: int | None = None) -> int:
        return config.integer(names.get(key, key), default)

    hidden, heads = read("hidden_size"), read("num_attention_heads")
    explicit = names.get("head_dim", "head_dim") in config
    if not explicit and not head_dim and hidden % heads:
        raise ConfigError(
            f"{config.path}: hidden_size {hidden} is no multiple of num_attention_heads {heads}"
        )
    sizes = Sizes(
        layers=read("num_hidden_layers"),
        hidden=hidden,
        feed_forward=read("intermediate_size", feed_factor * hidden or None),
        heads=heads,
        heads_kv=read("num_key_value_heads", heads),
        head_dim=read("head_dim", head_dim or hidden // heads),
        explicit_head_dim=explicit,
        vocabulary=read("vocab_size"),
        context=read("max_position_embeddings", context or None),
        norm_epsilon=config.number(norm.config, norm.epsilon),
    )
    return _checked(sizes, config)


def read_stored_sizes(
    metadata: Values,
    shapes: Mapping[str, tuple[int, ...]],
    norm: Norm = RMS,
    *,
    partial: bool = False,
) -> Sizes:
    """Read the sizes from GGUF metadata under the architecture's prefix.

    The vocabulary is the number of rows of the token embedding. `partial` tells that less than a
    whole head may be rotated.

    Raises:
        ConfigError: a value is missing, of a wrong kind, or does not go with another.
    """
    embedding = shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise ConfigError(f"{metadata.path}: there is no matrix token_embd.weight")
    hidden = metadata.integer("embedding_length")
    heads = metadata.integer("attention.head_count")
    implied = hidden // heads
    head_dim = metadata.integer("attention.key_length", implied)
    if metadata.integer("attention.value_length", head_dim) != head_dim:
        raise metadata.wrong("attention.value_length", f"the head size {head_dim}")
    rotary = metadata.integer("rope.dimension_count", head_dim)
    if rotary != head_dim and (not partial or rotary > head_dim or rotary % 2):
        raise metadata.wrong("rope.dimension_count", f"the head size {head_dim}")
    sizes = Sizes(
        layers=metadata.integer("block_count"),
        hidden=hidden,
        feed_forward=metadata.integer("feed_forward_length"),
        heads=heads,
        heads_kv=metadata.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        explicit_head_dim="attention.key_length" in metadata,
        vocabulary=embedding[0],
        context=metadata.integer("context_length"),
        norm_epsilon=shortest(metadata.number(norm.gguf)),
    )
    return _checked(sizes, metadata)


def _checked(sizes: Sizes, values: Values) -> Sizes:
    if sizes.layers > MAX_LAYERS:
        raise ConfigError(f"{values.path}: {sizes.layers} layers are more than {MAX_LAYERS}")
    if sizes.vocabulary > MAX_VOCABULARY:
        raise ConfigError(
            f"{values.path}: {sizes.vocabulary} rows of embeddings are more than {MAX_VOCABULARY}"
        )
    if sizes.heads % sizes.heads_kv:
        raise ConfigError(
            f"{values.path}: {sizes.heads} attention heads are no multiple of "
            f"{sizes.heads_kv} key-value heads"
        )
    if sizes.head_dim % 2 or not 0 < sizes.head_dim <= MAX_HEAD:
        raise ConfigError(
            f"{values.path}: the head size {sizes.head_dim} is no even number up to {MAX_HEAD}"
        )
    return sizes


def shortest(value: float) -> float:
    """Give the shortest decimal that is the same float32: 1e-05, not 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def common_keys(
    decoder: Decoder, norm: Norm = RMS, *, names_head_dim: bool = False, grouped: bool = True
) -> Keys:
    """Give the GGUF keys that the families share, without their prefix."""
    keys: Keys = {
        "block_count": (U32, decoder.layers),
        "context_length": (U32, decoder.context),
        "embedding_length": (U32, decoder.hidden),
        "feed_forward_length": (U32, decoder.feed_forward),
        "attention.head_count": (U32, decoder.heads),
    }
    if grouped:
        keys["attention.head_count_kv"] = (U32, decoder.heads_kv)
    scaling = decoder.scaling
    if scaling is not None and scaling.kind in ("linear", "yarn"):
        keys["rope.scaling.type"] = (TEXT, scaling.kind)
        keys["rope.scaling.factor"] = (F32, scaling.factor)
        if scaling.original_context:
            keys["rope.scaling.original_context_length"] = (U32, scaling.original_context)
        if scaling.attention_factor:
            # llama.cpp multiplies the usual one of yarn by this.
            beside = scaling.attention_factor / scaling.usual_attention
            keys["rope.scaling.attn_factor"] = (F32, beside)
    if decoder.rotary:
        keys["rope.freq_base"] = (F32, decoder.rope_theta)
    keys[norm.gguf] = (F32, decoder.norm_epsilon)
    if decoder.explicit_head_dim or names_head_dim:
        keys["attention.key_length"] = (U32, decoder.head_dim)
        keys["attention.value_length"] = (U32, decoder.head_dim)
    return keys


def common_config(
    hf_name: str,
    model_type: str,
    decoder: Decoder,
    norm: Norm = RMS,
    names: Mapping[str, str] = MappingProxyType({}),
    *,
    grouped: bool = True,
) -> dict[str, object]:
    """Give the part of config.json that the families share; `names` are a family's own keys."""
    sizes = {
        "hidden_size": decoder.hidden,
        "intermediate_size": decoder.feed_forward,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.heads_kv,
        "vocab_size": decoder.vocabulary,
        "max_position_embeddings": decoder.context + decoder.position_offset,
    }
    if not grouped:
        del sizes["num_key_value_heads"]
    found: dict[str, object] = {"architectures": [hf_name], "model_type": model_type}
    found |= {names.get(key, key): value for key, value in sizes.items()}
    found[norm.config] = decoder.norm_epsilon
    if decoder.rotary:
        found[names.get("rope_theta", "rope_theta")] = decoder.rope_theta
        found["rope_scaling"] = None if decoder.scaling is None else decoder.scaling.config()
    return found | {"tie_word_embeddings": decoder.tied, "use_cache": True}
