"""Gemma 3, text alone: Gemma3ForCausalLM.

Local and global attention in turn, norms on queries and keys and around each half.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm_converters.architectures.base import U32, Decoder, Keys, Sizes, Transform
from edgellm_converters.architectures.checks import local_theta, period, stored_period
from edgellm_converters.architectures.family import (
    ATTENTION,
    EMBEDDING,
    GATED,
    HEAD,
    Family,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = [
    "GEMMA3",
    "GEMMA_FINAL_NORM",
    "LOCAL_THETA",
    "PATTERN",
    "QUERY_SCALAR",
    "WINDOWS",
    "attention_scalar",
    "layer_types",
]

# What transformers' Gemma3TextConfig and llama.cpp take where the file says nothing.
LOCAL_THETA = 10_000.0
PATTERN = 6
QUERY_SCALAR = 256.0
LAYERS_OF_27B = 62  # the one size whose attention scale is not that of its head

GEMMA_FINAL_NORM = Tensor("output_norm", "model.norm", "hidden", Transform.PLUS_ONE)

WINDOWS = (
    Setting(
        "sliding_window",
        "sliding_window",
        "attention.sliding_window",
        kind="integer",
        default=4096,
    ),
    Setting(
        "rope_theta_local",
        "rope_local_base_freq",
        "rope.freq_base_swa",
        default=LOCAL_THETA,
        stored=LOCAL_THETA,
    ),
)


def attention_scalar(sizes: Sizes | Decoder, odd_layers: int) -> int:
    """Give the number under the root that scales queries, as llama.cpp derives it.

    The size of `odd_layers` layers is the one that does not take it from its head.
    """
    return sizes.hidden // sizes.heads if sizes.layers == odd_layers else sizes.head_dim


def layer_types(decoder: Decoder) -> list[str]:
    """Give `layer_types` of config.json: every n-th layer sees the whole context."""
    return [
        "sliding_attention" if (layer + 1) % decoder.sliding_pattern else "full_attention"
        for layer in range(decoder.layers)
    ]


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    scale = config.number("query_pre_attn_scalar", QUERY_SCALAR)
    if scale != attention_scalar(sizes, LAYERS_OF_27B):
        raise UnsupportedError(
            f"{config.path}: query_pre_attn_scalar is {scale:g}, which llama.cpp cannot be told"
        )
    return {
        "rope_theta_local": local_theta(config, "rope_local_base_freq", LOCAL_THETA),
        "sliding_pattern": period(config, sizes.layers, PATTERN),
    }


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    return {"sliding_pattern": stored_period(metadata, PATTERN)}


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {
        "query_pre_attn_scalar": attention_scalar(decoder, LAYERS_OF_27B),
        "sliding_window_pattern": decoder.sliding_pattern,
        "layer_types": layer_types(decoder),
    }


def _more_keys(decoder: Decoder) -> Keys:
    if decoder.sliding_pattern == PATTERN:
        return {}
    return {"attention.sliding_window_pattern": (U32, decoder.sliding_pattern)}


GEMMA3 = Family(
    name="gemma3",
    hf_names=("Gemma3ForCausalLM",),
    model_type="gemma3_text",
    ends=(EMBEDDING, GEMMA_FINAL_NORM, HEAD),
    layer=(
        *ATTENTION,
        *GATED,
        Tensor("attn_q_norm", "self_attn.q_norm", "head", Transform.PLUS_ONE),
        Tensor("attn_k_norm", "self_attn.k_norm", "head", Transform.PLUS_ONE),
        Tensor("attn_norm", "input_layernorm", "hidden", Transform.PLUS_ONE),
        Tensor("post_attention_norm", "post_attention_layernorm", "hidden", Transform.PLUS_ONE),
        Tensor("ffn_norm", "pre_feedforward_layernorm", "hidden", Transform.PLUS_ONE),
        Tensor("post_ffw_norm", "post_feedforward_layernorm", "hidden", Transform.PLUS_ONE),
    ),
    settings=(
        *WINDOWS,
        Setting(
            "final_softcap", "final_logit_softcapping", "final_logit_softcapping", optional=True
        ),
    ),
    fixed={
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False,),
        "use_bidirectional_attention": (False,),
    },
    written={"attention_dropout": 0.0, "attn_logit_softcapping": None},
    theta=1_000_000.0,
    stored_theta=1_000_000.0,
    tied=True,
    names_head_dim=True,
    scalings=("linear",),
    reads=("query_pre_attn_scalar", "layer_types"),
    reads_stored=("attention.sliding_window_pattern",),
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
)
