"""Gemma 1 and Gemma 2: norms that store w of 1 + w, a gated GELU network, the embedding as output.

Gemma 2 has norms after each half too, caps on logits, and a window in every other layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm_converters.architectures.base import U32, Decoder, Keys, Sizes, Transform
from edgellm_converters.architectures.checks import no_window_in_mlx, period, stored_period
from edgellm_converters.architectures.family import (
    ATTENTION,
    EMBEDDING,
    GATED,
    Family,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.gemma3 import (
    GEMMA_FINAL_NORM,
    attention_scalar,
    layer_types,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["GEMMA", "GEMMA2"]

PATTERN = 2  # each second layer of Gemma 2 sees the whole context
LAYERS_OF_27B = 46  # the one Gemma 2 whose attention scale is not that of its head
HEAD_DIM = 256


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    scale = config.number("query_pre_attn_scalar", 256.0)
    if scale != attention_scalar(sizes, LAYERS_OF_27B):
        raise UnsupportedError(
            f"{config.path}: query_pre_attn_scalar is {scale:g}, which llama.cpp cannot be told"
        )
    return {"sliding_pattern": period(config, sizes.layers, PATTERN)}


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    return {"sliding_pattern": stored_period(metadata, PATTERN)}


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {
        "query_pre_attn_scalar": attention_scalar(decoder, LAYERS_OF_27B),
        "layer_types": layer_types(decoder),
    }


def _more_keys(decoder: Decoder) -> Keys:
    if decoder.sliding_pattern == PATTERN:
        return {}
    return {"attention.sliding_window_pattern": (U32, decoder.sliding_pattern)}


GEMMA = Family(
    name="gemma",
    hf_names=("GemmaForCausalLM",),
    model_type="gemma",
    ends=(EMBEDDING, GEMMA_FINAL_NORM),
    layer=(
        *ATTENTION,
        *GATED,
        Tensor("attn_norm", "input_layernorm", "hidden", Transform.PLUS_ONE),
        Tensor("ffn_norm", "post_attention_layernorm", "hidden", Transform.PLUS_ONE),
    ),
    fixed={
        # The first releases say "gelu" and mean the approximation: transformers takes it so, too.
        "hidden_act": ("gelu_pytorch_tanh", "gelu"),
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False,),
        "use_bidirectional_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    written={"attention_dropout": 0.0},
    tied=True,
    head_dim=HEAD_DIM,
    names_head_dim=True,
)

GEMMA2 = Family(
    name="gemma2",
    hf_names=("Gemma2ForCausalLM",),
    model_type="gemma2",
    ends=(EMBEDDING, GEMMA_FINAL_NORM),
    layer=(
        *ATTENTION,
        *GATED,
        Tensor("attn_norm", "input_layernorm", "hidden", Transform.PLUS_ONE),
        Tensor("post_attention_norm", "post_attention_layernorm", "hidden", Transform.PLUS_ONE),
        Tensor("ffn_norm", "pre_feedforward_layernorm", "hidden", Transform.PLUS_ONE),
        Tensor("post_ffw_norm", "post_feedforward_layernorm", "hidden", Transform.PLUS_ONE),
    ),
    settings=(
        Setting(
            "sliding_window",
            "sliding_window",
            "attention.sliding_window",
            kind="integer",
            default=4096,
            stored=4096,
        ),
        Setting(
            "attention_softcap",
            "attn_logit_softcapping",
            "attn_logit_softcapping",
            default=50.0,
            stored=50.0,
        ),
        Setting(
            "final_softcap",
            "final_logit_softcapping",
            "final_logit_softcapping",
            default=30.0,
            stored=30.0,
        ),
    ),
    fixed={
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False,),
        "use_bidirectional_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    written={"attention_dropout": 0.0},
    tied=True,
    head_dim=HEAD_DIM,
    names_head_dim=True,
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
    for_mlx=no_window_in_mlx,
    reads=("query_pre_attn_scalar", "layer_types"),
    reads_stored=("attention.sliding_window_pattern",),
)
