"""What the decoder families share: sizes from config.json or metadata, and the keys for them."""

from __future__ import annotations

from collections.abc import Mapping

from edgellm_converters.architectures.base import F32, TEXT, U32, Decoder, Keys, Sizes
from edgellm_converters.architectures.rope import SCALING_KEYS
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError

__all__ = [
    "STORED_KEYS",
    "common_config",
    "common_keys",
    "read_sizes",
    "read_stored_sizes",
]

MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
# Twice the largest vocabularies and far beyond every head in use: what is computed from them stays
# small, whatever the file says.
MAX_VOCABULARY = 1 << 19
MAX_HEAD = 1 << 16


STORED_KEYS = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.key_length", "attention.value_length", "rope.freq_base", *SCALING_KEYS),
)
"""The keys of GGUF metadata that every family reads."""


def read_sizes(config: Values) -> Sizes:
    """Read the sizes from config.json.

    Raises:
        ConfigError: a value is missing, of a wrong kind, or does not go with another.
    """
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    explicit = "head_dim" in config
    if not explicit and hidden % heads:
        raise ConfigError(
            f"{config.path}: hidden_size {hidden} is no multiple of num_attention_heads {heads}"
        )
    sizes = Sizes(
        layers=config.integer("num_hidden_layers"),
        hidden=hidden,
        feed_forward=config.integer("intermediate_size"),
        heads=heads,
        heads_kv=config.integer("num_key_value_heads", heads),
        head_dim=config.integer("head_dim", hidden // heads),
        explicit_head_dim=explicit,
        vocabulary=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings"),
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
    )
    return _checked(sizes, config)


def read_stored_sizes(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """Read the sizes from GGUF metadata under the architecture's prefix.

    The vocabulary is the number of rows of the token embedding.

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
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.integer(key, head_dim) != head_dim:
            raise metadata.wrong(key, f"the head size {head_dim}")
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
        norm_epsilon=_shortest(metadata.number("attention.layer_norm_rms_epsilon")),
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


def _shortest(value: float) -> float:
    """Give the shortest decimal that is the same float32: 1e-05, not 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def common_keys(name: str, decoder: Decoder) -> Keys:
    """Give the GGUF keys that the families share."""
    keys: Keys = {
        "block_count": (U32, decoder.layers),
        "context_length": (U32, decoder.context),
        "embedding_length": (U32, decoder.hidden),
        "feed_forward_length": (U32, decoder.feed_forward),
        "attention.head_count": (U32, decoder.heads),
        "attention.head_count_kv": (U32, decoder.heads_kv),
    }
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
    keys["rope.freq_base"] = (F32, decoder.rope_theta)
    keys["attention.layer_norm_rms_epsilon"] = (F32, decoder.norm_epsilon)
    if decoder.explicit_head_dim:
        keys["attention.key_length"] = (U32, decoder.head_dim)
        keys["attention.value_length"] = (U32, decoder.head_dim)
    return {f"{name}.{key}": value for key, value in keys.items()}


def common_config(hf_name: str, model_type: str, decoder: Decoder) -> dict[str, object]:
    """Give the part of config.json that the families share."""
    return {
        "architectures": [hf_name],
        "model_type": model_type,
        "hidden_size": decoder.hidden,
        "intermediate_size": decoder.feed_forward,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.heads_kv,
        "head_dim": decoder.head_dim,
        "vocab_size": decoder.vocabulary,
        "max_position_embeddings": decoder.context,
        "rms_norm_eps": decoder.norm_epsilon,
        "rope_theta": decoder.rope_theta,
        "rope_scaling": None if decoder.scaling is None else decoder.scaling.config(),
        "tie_word_embeddings": decoder.tied,
        "use_cache": True,
    }
