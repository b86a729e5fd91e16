"""Cohere's Command R and Aya: both halves at once after one norm, logits multiplied.

Rotary pairs lie side by side, as in GGUF. Command R+ norms each head of queries and keys with
weights of its own; llama.cpp looks for these norms in models of 64 layers or more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm_converters.architectures.base import TEXT, Decoder, Keys, Sizes
from edgellm_converters.architectures.common import LAYER_NORM
from edgellm_converters.architectures.family import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    GATED,
    Family,
    Setting,
    Tensor,
)
from edgellm_converters.architectures.values import Values
from edgellm_converters.errors import UnsupportedError

__all__ = ["COMMAND_R"]

LAYERS_WITH_HEAD_NORMS = 64


def _read(config: Values, sizes: Sizes) -> dict[str, Any]:
    normed = config.flag("use_qk_norm", False)
    if normed is not (sizes.layers >= LAYERS_WITH_HEAD_NORMS):
        raise UnsupportedError(
            f"{config.path}: use_qk_norm is {str(normed).lower()} in a model of {sizes.layers} "
            f"layers; llama.cpp has these norms from {LAYERS_WITH_HEAD_NORMS} layers on"
        )
    # Command R was trained on longer texts than max_position_embeddings says.
    context = config.integer("model_max_length", sizes.context)
    return {"head_norms": normed, "context": context}


def _read_stored(metadata: Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:  # noqa: ARG001
    return {"head_norms": "blk.0.attn_q_norm.weight" in shapes}


def _more_config(decoder: Decoder) -> dict[str, object]:
    return {"use_qk_norm": decoder.head_norms}


def _more_keys(decoder: Decoder) -> Keys:  # noqa: ARG001
    return {"rope.scaling.type": (TEXT, "none")}


COMMAND_R = Family(
    name="command-r",
    hf_names=("CohereForCausalLM",),
    model_type="cohere",
    ends=(EMBEDDING, FINAL_NORM),
    layer=(
        *ATTENTION,
        Tensor("attn_q_norm", "self_attn.q_norm", "heads head", when="head_norms"),
        Tensor("attn_k_norm", "self_attn.k_norm", "heads_kv head", when="head_norms"),
        *GATED,
        Tensor("attn_norm", "input_layernorm", "hidden"),
    ),
    settings=(Setting("logit_scale", "logit_scale", "logit_scale", default=0.0625, stored=1.0),),
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "layer_norm_bias": (False,),
        "tie_word_embeddings": (True,),
    },
    written={"attention_dropout": 0.0},
    norm=LAYER_NORM,
    theta=500_000.0,
    square=True,
    tied=True,
    scalings=(),
    read=_read,
    read_stored=_read_stored,
    more_config=_more_config,
    more_keys=_more_keys,
    reads=("use_qk_norm",),
)
