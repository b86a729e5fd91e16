"""Falcon: both halves at once, few key-value heads, queries and keys and values in one matrix.

Falcon 7B has one norm and one key-value head for all queries. Falcon 40B and 11B (the "new decoder
architecture") have groups: the queries of a group, then its key and its value; 40B has a norm for
each half. In GGUF all queries come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgellm_converters.architectures.base import TEXT, Decoder, Keys, Sizes
from edgellm_converters.architectures.checks import note_gelu
from edgellm_converters.architectures.common import Norm
from edgellm_converters.architectures.family import Family, Part, Tensor
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import ConfigError

__all__ = ["FALCON", "by_group"]

NORMS = "num_ln_in_parallel_attn"


def by_group(decoder: Decoder) -> Iterator[Part]:
    """Give the rows of queries, keys and values of each group, as one matrix has all of them."""
    size, groups = decoder.head_dim, decoder.heads_kv
    shared = decoder.heads // groups
    at = 0
    for first, count in ((0, shared), (shared, 1), (shared + 1, 1)):
        for group in range(groups):
            rows = count * size
            yield Part(at, (group * (shared + 2) + first) * size, rows)
            at += rows


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    if config.flag("new_decoder_architecture", False):
        norms = config.integer(NORMS, 2)
        if norms > 2:
            raise config.wrong(NORMS, "1 or 2")
        return {"two_norms": norms == 2}
    if config.integer(NORMS, 1) != 1:
        raise ConfigError(f"{config.path}: {NORMS} is {config.raw(NORMS)} in Falcon's first form")
    shared = config.flag("multi_query", True)
    return {"heads_kv": 1 if shared else sizes.heads}


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    # llama.cpp goes by the norm.
    return {"two_norms": "blk.0.attn_norm_2.weight" in shapes}


def _more_config(decoder: Decoder) -> dict[str, object]:
    old = decoder.heads_kv == 1 and not decoder.two_norms
    return {
        "new_decoder_architecture": not old,
        "multi_query": old,
        NORMS: None if old else 1 + decoder.two_norms,
    }


def _more_keys(decoder: Decoder) -> Keys:  # noqa: ARG001
    return {"tensor_data_layout": (TEXT, "jploski")}  # the order of queries, keys and values


FALCON = Family(
    name="falcon",
    hf_names=("FalconForCausalLM",),
    model_type="falcon",
    blocks="transformer.h.{}.",
    in_mlx=False,
    names={"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"},
    feed_factor=4,
    context=2048,
    ends=(
        Tensor("token_embd", "transformer.word_embeddings", "vocabulary hidden"),
        Tensor("output_norm", "transformer.ln_f", "hidden", bias=True),
        Tensor("output", "lm_head", "vocabulary hidden", when="!tied"),
    ),
    layer=(
        Tensor("attn_qkv", "self_attention.query_key_value", "qkv hidden", parts=by_group),
        Tensor("attn_output", "self_attention.dense", "hidden query"),
        Tensor("ffn_up", "mlp.dense_h_to_4h", "feed hidden"),
        Tensor("ffn_down", "mlp.dense_4h_to_h", "hidden feed"),
        Tensor("attn_norm", "input_layernorm", "hidden", bias=True, when="!two_norms"),
        Tensor("attn_norm", "ln_mlp", "hidden", bias=True, when="two_norms"),
        Tensor("attn_norm_2", "ln_attn", "hidden", bias=True, when="two_norms"),
    ),
    fixed={
        "activation": ("gelu",),
        "alibi": (False,),
        "apply_residual_connection_post_layernorm": (False,),
        "bias": (False,),
        "parallel_attn": (True,),
    },
    written={"attention_dropout": 0.0, "hidden_dropout": 0.0},
    norm=Norm("layer_norm_epsilon", "attention.layer_norm_epsilon", 1e-5),
    square=True,
    tied=True,
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
    checks=(note_gelu,),
    reads=("multi_query", "new_decoder_architecture", NORMS),
)
