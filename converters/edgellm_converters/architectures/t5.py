"""T5: encoder and decoder with biases of attention by distance; also the encoder alone.

The first layer's table of biases serves all layers. T5 1.0 has a network of two matrices with ReLU;
1.1 has a gate with GELU, and an output matrix of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgellm_converters.architectures.base import F32, U32, Decoder, Keys, Sizes
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.family import HEAD, Family, Stack, Tensor
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = ["T5", "T5_ENCODER"]

CONTEXT = 512  # what T5 was trained on; most of its files do not say
LEAST_BUCKETS, MOST_BUCKETS = 4, 1 << 12  # with fewer, logarithms of 0 would number them
NORM = Norm("layer_norm_epsilon", "attention.layer_norm_rms_epsilon", 1e-6)
NAMES = {
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_heads",
    "head_dim": "d_kv",
    "max_position_embeddings": "n_positions",
}
KINDS = {"relu": False, "gated-gelu": True}
SHARED = Tensor("token_embd", "shared", "vocabulary hidden")


def _first(decoder: Decoder, layer: int) -> bool:  # noqa: ARG001
    return layer == 0


def _attention(gguf: str, hf: str) -> tuple[Tensor, ...]:
    return (
        Tensor(f"{gguf}_q", f"{hf}.q", "query hidden"),
        Tensor(f"{gguf}_k", f"{hf}.k", "query hidden"),
        Tensor(f"{gguf}_v", f"{hf}.v", "query hidden"),
        Tensor(f"{gguf}_o", f"{hf}.o", "hidden query"),
    )


def _self_attention() -> tuple[Tensor, ...]:
    at = "layer.0.SelfAttention"
    return (
        *_attention("attn", at),
        Tensor("attn_rel_b", f"{at}.relative_attention_bias", "buckets heads", when=_first),
        Tensor("attn_norm", "layer.0.layer_norm", "hidden"),
    )


def _network(number: int) -> tuple[Tensor, ...]:
    at = f"layer.{number}.DenseReluDense"
    return (
        Tensor("ffn_up", f"{at}.wi", "feed hidden", when="!gated"),
        Tensor("ffn_gate", f"{at}.wi_0", "feed hidden", when="gated"),
        Tensor("ffn_up", f"{at}.wi_1", "feed hidden", when="gated"),
        Tensor("ffn_down", f"{at}.wo", "hidden feed"),
        Tensor("ffn_norm", f"layer.{number}.layer_norm", "hidden"),
    )


def _usual(config: Values) -> Values:
    return config if "n_positions" in config else config.updated({"n_positions": CONTEXT})


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:  # noqa: ARG001
    kind = config.text("feed_forward_proj", "relu")
    if kind not in KINDS:
        raise UnsupportedError(
            f"{config.path}: feed_forward_proj is {kind!r:.80}; T5 in GGUF has {' or '.join(KINDS)}"
        )
    buckets = config.integer("relative_attention_num_buckets", 32)
    # GGUF always names the size of a head.
    return {
        "gated": KINDS[kind],
        "buckets": _bounded(config, buckets),
        "explicit_head_dim": True,
    }


def _read_both(config: Values, sizes: Sizes) -> dict[str, Any]:
    start = config.integer("decoder_start_token_id", 0, least=0)
    if start >= sizes.vocabulary:
        raise config.wrong("decoder_start_token_id", f"a token, less than {sizes.vocabulary},")
    layers = config.integer("num_decoder_layers", sizes.layers)
    if layers > sizes.layers:
        raise UnsupportedError(
            f"{config.path}: num_decoder_layers is {layers}; llama.cpp takes no decoder of more "
            f"layers than the encoder's {sizes.layers}"
        )
    return _read(config, sizes) | {"decoder_start": start, "decoder_layers": layers}


def _note_scale(config: Values, sizes: Sizes, notes: list[str]) -> None:
    """Note what llama.cpp does otherwise with an output matrix that is the embedding."""
    if config.flag("tie_word_embeddings", True):
        root = math.sqrt(sizes.hidden)
        notes.append(
            f"transformers divides the logits of a T5 with a tied output by {root:.6g}, which "
            "llama.cpp does not: the most probable token is the same, and a temperature is to be "
            "multiplied by that"
        )


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    buckets = metadata.integer("attention.relative_buckets_count")
    return {
        "gated": "enc.blk.0.ffn_gate.weight" in shapes,
        "buckets": _bounded(metadata, buckets),
        "explicit_head_dim": True,
    }


def _read_stored_both(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    layers = metadata.integer("block_count")
    decoder_layers = metadata.integer("decoder_block_count", layers)
    if decoder_layers > layers:
        raise metadata.wrong("decoder_block_count", f"at most block_count ({layers})")
    return _read_stored(metadata, shapes) | {
        "decoder_start": metadata.integer("decoder_start_token_id", 0, least=0),
        "decoder_layers": decoder_layers,
    }


def _bounded(values: Values, buckets: int) -> int:
    if not LEAST_BUCKETS <= buckets <= MOST_BUCKETS:
        raise ConfigError(
            f"{values.path}: {buckets} buckets of distances; llama.cpp needs from {LEAST_BUCKETS} "
            f"to {MOST_BUCKETS}"
        )
    return buckets


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {
        "feed_forward_proj": "gated-gelu" if decoder.gated else "relu",
        "relative_attention_num_buckets": decoder.buckets,
    }


def _more_config_both(decoder: Decoder) -> dict[str, object]:
    return _more_config(decoder) | {
        "num_decoder_layers": decoder.decoder_layers,
        "decoder_start_token_id": decoder.decoder_start,
        "is_encoder_decoder": True,
    }


def _more_keys(decoder: Decoder) -> Keys:
    return {
        # llama.cpp reads the one with "rms" alone; other converters write both.
        "attention.layer_norm_epsilon": (F32, decoder.norm_epsilon),
        "attention.relative_buckets_count": (U32, decoder.buckets),
    }


def _more_keys_both(decoder: Decoder) -> Keys:
    return _more_keys(decoder) | {
        "decoder_block_count": (U32, decoder.decoder_layers),
        "decoder_start_token_id": (U32, decoder.decoder_start),
    }


_ENCODER: dict[str, Any] = {
    "gguf_blocks": "enc.blk.{}.",
    "blocks": "encoder.block.{}.",
    "layer": (*_self_attention(), *_network(1)),
    "names": NAMES,
    "usual": _usual,
    "head_dim": 64,
    "names_head_dim": True,
    "in_mlx": False,
    "rotates": False,
    "grouped": False,
    "tied": True,
    "norm": NORM,
    # llama.cpp's distances end at 128.
    "fixed": {"relative_attention_max_distance": (128,)},
    "written": {"dropout_rate": 0.0},
    "copies": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
}

T5 = Family(
    name="t5",
    hf_names=("T5ForConditionalGeneration", "MT5ForConditionalGeneration"),
    model_type="t5",
    ends=(
        SHARED,
        Tensor("enc.output_norm", "encoder.final_layer_norm", "hidden"),
        Tensor("dec.output_norm", "decoder.final_layer_norm", "hidden"),
        HEAD,
    ),
    stacks=(
        Stack(
            "dec.blk.{}.",
            "decoder.block.{}.",
            (
                *_self_attention(),
                *_attention("cross_attn", "layer.1.EncDecAttention"),
                Tensor("cross_attn_norm", "layer.1.layer_norm", "hidden"),
                *_network(2),
            ),
            layers="decoder_layers",
        ),
    ),
    # In the first files of T5; nothing reads it.
    leaves=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
    read=_read_both,
    read_stored=_read_stored_both,
    more_config=_more_config_both,
    more_keys=_more_keys_both,
    checks=(_note_scale,),
    reads_stored=(
        *("attention.layer_norm_epsilon", "attention.relative_buckets_count"),
        *("decoder_block_count", "decoder_start_token_id"),
    ),
    **_ENCODER,
)

T5_ENCODER = Family(
    name="t5encoder",
    hf_names=("T5EncoderModel", "MT5EncoderModel"),
    model_type="t5",
    ends=(SHARED, Tensor("enc.output_norm", "encoder.final_layer_norm", "hidden")),
    pools=True,
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
    reads_stored=("attention.layer_norm_epsilon", "attention.relative_buckets_count"),
    **_ENCODER,
)
